"""CVAT for images 1.1: one XML with masks and scores, and the labels for CVAT's constructor.

CVAT turns images upright by their EXIF orientation, so the masks are those of the upright image.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from job.convert.formats.base import Encoded, FormatOptions, to_json
from job.convert.labelled import LabelledImage, LabelledInstance
from job.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold (section 2.2)."""
_SCORE = {"name": "score", "mutable": False, "input_type": "text", "default_value": "", "values": [""]}

_SCORE_XML = (
    "<attributes><attribute><name>score</name><mutable>False</mutable><input_type>text</input_type>"
    "<default_value></default_value><values></values></attribute></attributes>"
)


class Cvat:
    """`annotations.xml`, or `train.xml` and `val.xml`; `labels.json`."""

    def __init__(self, options: FormatOptions) -> None:
        self._options = options
        self._images: dict[str, int] = dict.fromkeys(options.sides, 0)

    def image_key(self, image: LabelledImage) -> str:
        """See `Format`."""
        return f"images/{image.image}"

    def encode(self, image: LabelledImage) -> Encoded:
        """See `Format`."""
        if _NOT_XML.search(image.image):
            raise InputError("XML cannot hold the name of the image: it has control characters")
        height, width = image.upright_size_hw
        name = quoteattr(image.image)
        shapes = "".join(map(_shape, image.instances))
        text = f'  <image id="{image.number - 1}" name={name} width="{width}" height="{height}">\n{shapes}  </image>\n'
        return Encoded(parts={image.side: text.encode("utf-8")})

    def add(self, encoded: Encoded) -> None:
        """See `Format`."""
        for side, text in encoded.parts.items():
            self._options.destination.append(f"images{side}", text)
            self._images[side] += 1

    def finish(self) -> None:
        """See `Format`."""
        for side in self._options.sides:
            parts: list[bytes | str] = [self._head(self._images[side]), f"images{side}", b"</annotations>\n"]
            self._options.destination.put_parts(f"{side or 'annotations'}.xml", parts)
        colours = self._options.colours
        labels = [
            {"name": name, "type": "any", "attributes": [_SCORE]}
            | ({"color": colours[name]} if name in colours else {})
            for name in self._options.categories.names
        ]
        self._options.destination.put("labels.json", to_json(labels) + b"\n")

    def _head(self, images: int) -> bytes:
        labels = "".join(map(self._label, self._options.categories.names))
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
            f"      <name>sam3-annotate</name>\n      <size>{images}</size>\n      <mode>annotation</mode>\n"
            f"      <labels>\n{labels}      </labels>\n    </task>\n  </meta>\n"
        ).encode()

    def _label(self, name: str) -> str:
        colour = self._options.colours.get(name)
        shown = "" if colour is None else f"<color>{escape(colour)}</color>"
        return f"        <label><name>{escape(name)}</name>{shown}<type>any</type>{_SCORE_XML}</label>\n"


def _shape(instance: LabelledInstance) -> str:
    mask = instance.upright
    x0, y0, x1, y1 = mask.box_xyxy
    score = "" if instance.score is None else f"{instance.score:.4f}"
    runs = ", ".join(map(str, row_runs(mask.crop())))
    return (
        f'    <mask label={quoteattr(instance.class_name)} source="auto" occluded="0" rle="{runs}" '
        f'left="{x0}" top="{y0}" width="{x1 - x0}" height="{y1 - y0}" z_order="0">\n'
        f'      <attribute name="score">{score}</attribute>\n    </mask>\n'
    )


def row_runs(pixels: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs, row by row, background first."""
    flat = pixels.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], changes, [len(flat)]))).tolist()
    return [0, *runs] if flat[0] else runs
