"""Label Studio: tasks with predictions, and the labelling configuration.

Browsers turn images upright by their EXIF orientation, so the masks are those of the upright image.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from job.convert.formats.base import Encoded, FormatOptions, to_json
from job.convert.formats.brush_rle import encode_brush
from job.convert.labelled import LabelledImage, LabelledInstance

FROM_NAME, TO_NAME = "masks", "image"
TASKS_A_FILE = 1000
_FILE_BYTES = 64 << 20
"""Label Studio takes files of at most 250 MB by default."""
_NOT_QUOTED = ("s3://", "gs://", "azure-blob://")
"""Label Studio splits these at their slashes itself."""


class LabelStudio:
    """`tasks/000001.json` and so on, `label-config.xml`."""

    def __init__(self, options: FormatOptions) -> None:
        self._options = options
        self._prefix = self._default_prefix() if options.image_url_prefix is None else options.image_url_prefix
        self._tasks: list[bytes] = []
        self._bytes = 0
        self._files = 0

    def image_key(self, image: LabelledImage) -> str:
        """See `Format`."""
        return f"images/{image.image}"

    def encode(self, image: LabelledImage) -> Encoded:
        """See `Format`."""
        scores = [instance.score for instance in image.instances if instance.score is not None]
        prediction = {
            "model_version": self._options.model_id,
            "score": min(scores, default=1.0),
            "result": [_region(instance, image, number) for number, instance in enumerate(image.instances, start=1)],
        }
        data: dict[str, object] = {"image": self._url_of(image.image), "key": image.key}
        if image.side:
            data["split"] = image.side
        return Encoded(parts={"task": to_json({"data": data, "predictions": [prediction]})})

    def add(self, encoded: Encoded) -> None:
        """See `Format`."""
        task = encoded.parts["task"]
        if self._tasks and (len(self._tasks) == TASKS_A_FILE or self._bytes + len(task) > _FILE_BYTES):
            self._write()
        self._tasks.append(task)
        self._bytes += len(task)

    def finish(self) -> None:
        """See `Format`."""
        self._write()
        labels = "".join(map(self._label, self._options.categories.names))
        text = (
            f'<View>\n  <Image name="{TO_NAME}" value="$image" zoom="true" zoomControl="true"/>\n'
            f'  <BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">\n{labels}  </BrushLabels>\n</View>\n'
        )
        self._options.destination.put("label-config.xml", text.encode("utf-8"))

    def _label(self, name: str) -> str:
        colour = self._options.colours.get(name)
        shown = "" if colour is None else f" background={quoteattr(colour)}"
        return f"    <Label value={quoteattr(name)}{shown}/>\n"

    def _write(self) -> None:
        self._files += 1
        data = b"[\n" + b",\n".join(self._tasks) + b"\n]\n"
        self._options.destination.put(f"tasks/{self._files:06d}.json", data)
        self._tasks, self._bytes = [], 0

    def _default_prefix(self) -> str:
        """The images where they are stored; of a local folder, as Label Studio serves it from its own document root."""
        options = self._options
        url = f"{options.destination.store.url}/images" if options.places_images else options.images_url
        return f"{url}/" if "://" in url else f"/data/local-files/?d={quote(url.strip('/'))}/"

    def _url_of(self, image: str) -> str:
        return self._prefix + (image if self._prefix.startswith(_NOT_QUOTED) else quote(image))


def _region(instance: LabelledInstance, image: LabelledImage, number: int) -> dict[str, Any]:
    height, width = image.upright_size_hw
    pixels = np.zeros((height, width), np.bool_)
    x0, y0, x1, y1 = instance.upright.box_xyxy
    pixels[y0:y1, x0:x1] = instance.upright.crop()
    return {
        "id": f"instance{number}",
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": instance.score,
        "value": {"format": "rle", "rle": list(encode_brush(pixels)), "brushlabels": [instance.class_name]},
    }
