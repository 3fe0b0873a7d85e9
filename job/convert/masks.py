"""Masks of table rows: decoding, and the visible parts of whole masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from job.errors import InputError
from job.formats.instance_table import InstanceRow, Rle
from job.formats.rle import decode_counts, encode_rle
from job.postprocess.masks import CroppedMask, crop_mask


def decode_mask(rle: Rle) -> CroppedMask:
    """Decode the columns that a mask reaches, and crop it. The work depends on its box, not on the raster.

    The counts are checked; pycocotools decodes damaged ones to other masks.

    Raises:
        InputError: It is damaged, or empty.
    """
    height, width = rle.size
    runs = decode_counts(rle.counts)
    ends = np.cumsum(runs)
    if (runs < 0).any() or ends[-1] != height * width:
        raise InputError(f"RLE: its runs do not fill a raster of {height} x {width} (height x width)")
    filled = np.flatnonzero(runs[1::2]) * 2 + 1
    if len(filled) == 0:
        raise InputError("RLE: the mask of an instance is empty")
    first, last = int(filled[0]), int(filled[-1])
    x0, x1 = int(ends[first - 1]) // height, int(ends[last] - 1) // height + 1
    inner = runs[first - 1 : last + 1].copy()
    inner[0] = ends[first - 1] - x0 * height
    columns = np.zeros((x1 - x0) * height, np.bool_)
    columns[: int(inner.sum())] = np.repeat(np.arange(len(inner)) % 2 == 1, inner)
    mask = crop_mask(columns.reshape(x1 - x0, height).T, (x0, 0), (height, width))
    assert mask is not None, "it has a filled run"
    return mask


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
