"""Ultralytics YOLO: one text file an image, one row an instance, and `data.yaml`.

Ultralytics turns images upright by their EXIF orientation, so the coordinates are those of the upright image.
"""

from __future__ import annotations

from job.convert.formats.base import Encoded, FormatOptions, to_json
from job.convert.labelled import LabelledImage
from job.convert.outlines import inset, join_parts, outlines, simplify

INSET_PX = 0.05
"""Ultralytics drops the fraction of coordinates and fills up to and including the border, so it draws the mask.

The box, which it takes from the outline, is right to a tenth of a pixel."""
_IMAGES, _LABELS = "/images/", "/labels/"


class Yolo:
    """`images/train/…`, `labels/train/…`, with a split also `val`."""

    def __init__(self, options: FormatOptions) -> None:
        self._options = options

    def image_key(self, image: LabelledImage) -> str:
        """See `Format`."""
        return f"images/{image.side or 'train'}/{image.image}"

    def encode(self, image: LabelledImage) -> Encoded:
        """See `Format`."""
        height, width = image.upright_size_hw
        rows, joined = [], 0
        for instance in image.instances:
            if self._options.task == "detect":
                x0, y0, x1, y1 = instance.upright.box_xyxy
                values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
            else:
                parts = [simplify(inset(part, INSET_PX)) for part in outlines(instance.upright)]
                joined += len(parts) > 1
                values = (join_parts(parts) / (width, height)).ravel().tolist()
            number = self._options.categories.index(instance.class_name)
            rows.append(f"{number} {' '.join(f'{value:.6g}' for value in values)}\n")
        return Encoded(files={label_key(self.image_key(image)): "".join(rows).encode("ascii")}, joined=joined)

    def add(self, encoded: Encoded) -> None:
        """See `Format`; every image has a file of its own."""

    def finish(self) -> None:
        """See `Format`."""
        # JSON is YAML; a relative path is one below the folder of data.yaml.
        sides = {"train": "images/train", "val": "images/val" if len(self._options.sides) > 1 else "images/train"}
        names = "".join(f"  {number}: {_quoted(name)}\n" for number, name in enumerate(self._options.categories.names))
        text = "".join(f"{side}: {folder}\n" for side, folder in sides.items()) + f"names:\n{names or '  {}'}"
        self._options.destination.put("data.yaml", text.encode("utf-8"))


def label_key(image_key: str) -> str:
    """Where Ultralytics reads the labels of an image: the last folder `images` becomes `labels`.

    >>> label_key("images/train/yard/a.jpg")
    'labels/train/yard/a.txt'
    >>> label_key("images/train/images/a.jpg")
    'images/train/labels/a.txt'
    """
    swapped = _LABELS.join(f"/{image_key}".rsplit(_IMAGES, 1))[1:]
    return swapped.rpartition(".")[0] + ".txt"


def _quoted(name: str) -> str:
    return to_json(name).decode("utf-8")
