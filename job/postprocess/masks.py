"""Binary masks between the stages: cropped to their box and bit-packed.

Coordinates are pixels of a raster: x to the right, y down; a box holds its first column and row (x0, y0) and one
past its last (x1, y1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.postprocess.orientation import TURNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]
_CHUNK_VALUES = 1 << 16
"""Interpolated values in memory at once, float32: 256 KiB, which a core keeps in its cache."""


@dataclass(frozen=True)
class CroppedMask:
    """A mask that is not empty.

    Attributes:
        size_hw: Height and width of the raster, in pixels.
        box_xyxy: The tight box of the mask.
        bits: uint8 (h, ceil(w / 8)), the rows of the box, eight pixels a byte, most significant first.
    """

    size_hw: tuple[int, int]
    box_xyxy: Box
    bits: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Check that the bits fill the box and the box lies in the raster."""
        x0, y0, x1, y1 = self.box_xyxy
        height, width = self.size_hw
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"box {self.box_xyxy} does not lie in a raster of {height} x {width}")
        if self.bits.shape != (y1 - y0, (x1 - x0 + 7) // 8):
            raise ValueError(f"bits {self.bits.shape} do not fill the box {self.box_xyxy}")

    @property
    def area(self) -> int:
        """Pixels inside."""
        return int(np.bitwise_count(self.bits).sum())

    def crop(self) -> NDArray[np.bool_]:
        """The box as bool (h, w)."""
        return self._unpack(self.box_xyxy)

    def window(self, box_xyxy: Box) -> NDArray[np.bool_]:
        """A part of the mask's box as bool (h, w); `box_xyxy` is in the raster and inside the mask's box."""
        return self._unpack(box_xyxy)

    def _unpack(self, box_xyxy: Box) -> NDArray[np.bool_]:
        left, top = self.box_xyxy[:2]
        x0, y0, x1, y1 = box_xyxy
        rows = np.unpackbits(self.bits[y0 - top : y1 - top], axis=1, count=self.box_xyxy[2] - left)
        return rows[:, x0 - left : x1 - left].view(np.bool_)


def crop_mask(window: NDArray[np.bool_], origin_xy: tuple[int, int], size_hw: tuple[int, int]) -> CroppedMask | None:
    """Crop a mask to its tight box.

    Args:
        window: bool (h, w), the mask in a part of the raster; the rest of the raster is empty.
        origin_xy: Position of the window's first pixel in the raster.
        size_hw: Height and width of the raster.

    Returns:
        The mask, or None when it is empty.
    """
    rows, columns = np.flatnonzero(window.any(axis=1)), np.flatnonzero(window.any(axis=0))
    if len(rows) == 0:
        return None
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    x, y = origin_xy
    return CroppedMask(
        size_hw=size_hw,
        box_xyxy=(x + left, y + top, x + right, y + bottom),
        bits=np.packbits(window[top:bottom, left:right], axis=1),
    )


def logits_to_mask(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> CroppedMask | None:
    """Resize mask logits to a raster, bilinear with corners not aligned, and keep what is > 0.

    The arithmetic is that of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`, which
    `Sam3Processor` uses. Only the part of the raster that a positive logit can reach is computed, in chunks of
    rows, so memory depends on the mask's box and not on the picture.

    Args:
        logits: float32 (h, w).
        size_hw: Height and width of the raster, in pixels.

    Returns:
        The mask, or None when it is empty.
    """
    positive = logits > 0
    source_rows, source_columns = np.flatnonzero(positive.any(axis=1)), np.flatnonzero(positive.any(axis=0))
    if len(source_rows) == 0:
        return None
    y_axis = _Axis.reached(source_rows, logits.shape[0], size_hw[0])
    x_axis = _Axis.reached(source_columns, logits.shape[1], size_hw[1])
    if len(y_axis.low) == 0 or len(x_axis.low) == 0:
        return None
    window = np.empty((len(y_axis.low), len(x_axis.low)), np.bool_)
    for rows in _row_chunks(*window.shape):
        window[rows] = _interpolate(logits, y_axis.part(rows), x_axis) > 0
    return crop_mask(window, (x_axis.first, y_axis.first), size_hw)


def full_mask(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize mask logits (h, w) as `logits_to_mask` does, to the whole raster: bool (H, W)."""
    full = np.zeros(size_hw, np.bool_)
    mask = logits_to_mask(logits, size_hw)
    if mask is not None:
        x0, y0, x1, y1 = mask.box_xyxy
        full[y0:y1, x0:x1] = mask.crop()
    return full


def intersection_area(a: CroppedMask, b: CroppedMask) -> int:
    """Pixels that two masks of one raster share."""
    ax0, ay0, ax1, ay1 = a.box_xyxy
    bx0, by0, bx1, by1 = b.box_xyxy
    shared = (max(ax0, bx0), max(ay0, by0), min(ax1, bx1), min(ay1, by1))
    if shared[0] >= shared[2] or shared[1] >= shared[3]:
        return 0
    return int(np.count_nonzero(a.window(shared) & b.window(shared)))


def iou(a: CroppedMask, b: CroppedMask) -> float:
    """Intersection over union of two masks of one raster, 0 to 1; compare areas to test it against a limit."""
    shared = intersection_area(a, b)
    return shared / (a.area + b.area - shared)


def reorient(mask: CroppedMask, orientation: int) -> CroppedMask:
    """Rotate a mask of the upright picture to the raster as stored.

    Args:
        mask: In the frame of the upright picture.
        orientation: EXIF orientation of the stored raster, 1 to 8 (Exif 2.32, tag 0x0112).

    Returns:
        The mask in the stored raster.
    """
    if orientation == 1:
        return mask
    _, transposed, flipped_y, flipped_x = TURNS[orientation]
    crop, (height, width), box = mask.crop(), mask.size_hw, mask.box_xyxy
    if transposed:
        crop, height, width, box = crop.T, width, height, (box[1], box[0], box[3], box[2])
    x0, y0, x1, y1 = box
    if flipped_y:
        crop, y0, y1 = crop[::-1], height - y1, height - y0
    if flipped_x:
        crop, x0, x1 = crop[:, ::-1], width - x1, width - x0
    return CroppedMask((height, width), (x0, y0, x1, y1), np.packbits(crop, axis=1))


@dataclass(frozen=True)
class _Axis:
    """Bilinear weights along one axis: `low` and `high` are source cells, `weight` is the share of `high`."""

    first: int
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def reached(cls, positive: NDArray[np.int64], source: int, target: int) -> _Axis:
        """The pixels whose value depends on a positive source cell (ATen, UpSample.h)."""
        scale = np.float32(source) / np.float32(target)
        at = scale * (np.arange(target, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
        at = np.maximum(at, np.float32(0))
        low = np.minimum(at.astype(np.int64), source - 1)
        high = np.minimum(low + 1, source - 1)
        reached = np.flatnonzero((high >= positive[0]) & (low <= positive[-1]))
        if len(reached) == 0:
            return cls(0, low[:0], high[:0], at[:0])
        part = slice(int(reached[0]), int(reached[-1]) + 1)
        weight = np.clip(at[part] - low[part].astype(np.float32), np.float32(0), np.float32(1))
        return cls(part.start, low[part], high[part], weight)

    def part(self, pixels: slice) -> _Axis:
        """The weights of some of the pixels."""
        return _Axis(self.first + pixels.start, self.low[pixels], self.high[pixels], self.weight[pixels])


def _interpolate(logits: NDArray[np.float32], y_axis: _Axis, x_axis: _Axis) -> NDArray[np.float32]:
    """Interpolate the needed source rows along the width, then along the height."""
    first, last = int(y_axis.low[0]), int(y_axis.high[-1])
    rows = logits[first : last + 1]
    share = x_axis.weight
    wide = rows[:, x_axis.low] * (1 - share) + rows[:, x_axis.high] * share
    weight = y_axis.weight[:, None]
    result: NDArray[np.float32] = wide[y_axis.low - first] * (1 - weight)
    result += wide[y_axis.high - first] * weight
    return result


def _row_chunks(height: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK_VALUES // width)
    for start in range(0, height, step):
        yield slice(start, min(height, start + step))
