"""Rows of instances from a painted mask and its JSON, for images without rows in the instance table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from job.errors import InputError
from job.formats import gva
from job.formats.instance_rows import ImageFacts, row_without_instance
from job.formats.instance_table import InstanceRow, Rle
from job.formats.rle import encode_rle
from job.postprocess.masks import CroppedMask, crop_mask
from job.storage.keys import mask_name

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class VisibleImage:
    """The image of a painted mask.

    Attributes:
        json: Key of its JSON.
        image: Key of the image.
        orientation: EXIF orientation of the raster as stored, 1 to 8.
    """

    json: str
    image: str
    orientation: int


def visible_rows(document: gva.Document, mask: NDArray[np.uint8], about: VisibleImage) -> tuple[InstanceRow, ...]:
    """Make the rows of an image from its outputs.

    Prompt, query and parent are unknown, scores have 3 decimals, masks are the visible parts, and instances without a
    visible pixel are left out.

    Args:
        document: The JSON of the output.
        mask: uint8 (H, W), painted.
        about: Its image.

    Raises:
        InputError: The JSON has no annotation that belongs to the NPZ.
    """
    labels = gva.labels_at(document, mask_name(about.json))
    if labels is None:
        raise InputError("JSON: it has no annotation with properties and confidences that belongs to the NPZ")
    height, width = mask.shape
    facts = ImageFacts(about.json, about.image, gva.origin_of(document), about.orientation)
    common = row_without_instance(facts, (height, width))
    rows = [
        _row(common, visible, class_name=class_name, value=value, score=score)
        for class_name, pairs in labels.items()
        for value, score in pairs
        if (visible := crop_mask(mask == value, (0, 0), (height, width))) is not None
    ]
    return tuple(rows) or (common,)


def _row(common: InstanceRow, visible: CroppedMask, *, class_name: str, value: int, score: float) -> InstanceRow:
    return msgspec.structs.replace(
        common,
        class_name=class_name,
        score=score,
        value=value,
        box=visible.box_xyxy,
        area=visible.area,
        visible_area=visible.area,
        rle=Rle(visible.size_hw, encode_rle(visible, visible.size_hw)),
    )
