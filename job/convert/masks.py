"""Masks of table rows, and the visible parts of whole masks."""

from __future__ import annotations

from collections.abc import Sequence

from job.formats.instance_rows import paint_rows
from job.formats.instance_table import InstanceRow, Rle
from job.formats.rle import decode_cropped, encode_rle
from job.postprocess.masks import CroppedMask, crop_mask


def decode_mask(rle: Rle) -> CroppedMask:
    """Decode and crop a mask; damaged counts are found, which pycocotools decodes to other masks.

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
    if not rows:
        return {}
    size_hw = rows[0].size_hw
    painted = paint_rows(rows, size_hw)
    found = {}
    for row in rows:
        if row.value is not None and row.box is not None:
            x0, y0, x1, y1 = row.box
            visible = crop_mask(painted[y0:y1, x0:x1] == row.value, (x0, y0), size_hw)
            if visible is not None:
                found[row.value] = encode_mask(visible)
    return found
