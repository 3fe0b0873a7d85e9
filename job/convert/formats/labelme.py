"""labelme: one JSON an image, beside the image.

labelme turns images upright by their EXIF orientation, so the shapes are those of the upright image.
"""

from __future__ import annotations

import base64
import io
import os
from typing import Any

from PIL import Image

from job.convert.formats.base import Encoded, FormatOptions, to_json
from job.convert.labelled import LabelledImage, LabelledInstance
from job.convert.outlines import outlines, simplify
from job.storage.keys import stem_of

_VERSION = "5.5.0"
"""The version of labelme whose fields these are; later ones read them."""


class Labelme:
    """`<key of the JSON>`, with a split below `train/` and `val/`."""

    def __init__(self, options: FormatOptions) -> None:
        self._options = options

    def image_key(self, image: LabelledImage) -> str:
        """See `Format`."""
        return f"{image.side}/{image.image}" if image.side else image.image

    def encode(self, image: LabelledImage) -> Encoded:
        """See `Format`."""
        height, width = image.upright_size_hw
        key = f"{image.side}/{stem_of(image.key)}.json" if image.side else image.key
        document: dict[str, object] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [
                shape for number, instance in enumerate(image.instances) for shape in self._shapes(instance, number)
            ],
            "imagePath": self._image_path(image, key),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        return Encoded(files={key: to_json(document) + b"\n"})

    def add(self, encoded: Encoded) -> None:
        """See `Format`; every image has a file of its own."""

    def finish(self) -> None:
        """See `Format`."""
        names = "".join(f"{name}\n" for name in self._options.categories.names)
        self._options.destination.put("labels.txt", names.encode("utf-8"))

    def _image_path(self, image: LabelledImage, key: str) -> str:
        """Where the image is, from the folder of the JSON."""
        url, target = self._options.images_url, self._options.destination.store.url
        if self._options.places_images or "://" in url or "://" in target:
            return image.image.rpartition("/")[2]
        return os.path.relpath(f"{url}/{image.image}", os.path.dirname(f"{target}/{key}"))

    def _shapes(self, instance: LabelledInstance, number: int) -> list[dict[str, Any]]:
        common = {
            "label": instance.class_name,
            "group_id": number,
            "description": "" if instance.score is None else f"score {instance.score:.3f}",
            "flags": {},
            "score": instance.score,
        }
        if self._options.polygons:
            parts = [simplify(part).astype(float).tolist() for part in outlines(instance.upright)]
            return [common | {"points": points, "shape_type": "polygon", "mask": None} for points in parts]
        x0, y0, x1, y1 = instance.upright.box_xyxy
        points = [[x0, y0], [x1 - 1, y1 - 1]]  # the last column and row are inside, as labelme draws masks
        return [common | {"points": points, "shape_type": "mask", "mask": _png(instance)}]


def _png(instance: LabelledInstance) -> str:
    buffer = io.BytesIO()
    Image.fromarray(instance.upright.crop()).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
