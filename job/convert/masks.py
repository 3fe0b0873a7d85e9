"""Masks of table rows: decoding, and the visible parts of whole masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from job.formats.instance_table import InstanceRow, Rle
from job.formats.rle import decode_cropped, encode_rle
from job.postprocess.masks import CroppedMask, crop_mask


def decode_mask(rle: Rle) -> CroppedMask:
    """Decode the columns that a mask reaches, and crop it. The work depends on its box, not on the raster.

    The counts are checked; pycocotools decodes damaged ones to other masks.

    Raises:
        InputError: It is damaged, or empty.
    """
    return decode_cropped(rle.counts, rle.size)


def encode_mask(mask: CroppedMask) -> Rle:
    """Encode a mask."""
    return Rle(mask.size_hw, encode_rle(mask, mask.size_hw))


def visible_parts(rows: Sequence[InstanceRow]) -> dict[int, Rle]:
    """The pixels of each instance that no smaller one covers: those that have its value in the NPZ's mask.

    Args:
        rows: All instances of the output of one image.

    Returns:
        By value in the mask; without those that are covered completely.
    """
    masks = {row.value: decode_mask(row.rle) for row in rows if row.value is not None and row.rle is not None}
    if not masks:
        return {}
    size_hw = rows[0].size_hw
    canvas = np.zeros(size_hw, np.uint8)
    for value in sorted(masks):
        x0, y0, x1, y1 = masks[value].box_xyxy
        canvas[y0:y1, x0:x1][masks[value].crop()] = value
    found = {}
    for value, mask in masks.items():
        x0, y0, x1, y1 = mask.box_xyxy
        visible = crop_mask(canvas[y0:y1, x0:x1] == value, (x0, y0), size_hw)
        if visible is not None:
            found[value] = encode_mask(visible)
    return found
