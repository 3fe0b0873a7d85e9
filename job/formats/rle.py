"""Run-length encoding of masks: the compressed counts of COCO.

A mask is read column by column, from the top. Counts are lengths of runs, background first. From the fourth on, a count
is stored as the difference from the count two places before it. Each number is written in groups of five bits, the
lowest first, with a sixth bit that says that more follow, as the character 48 + group (cocoapi, `maskApi.c`,
`rleEncode` and `rleToString`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from job.errors import InputError
from job.postprocess.masks import CroppedMask, crop_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIRST_CHARACTER = 48
_MORE = 0x20
_SIGN = 0x10
_GROUP_BITS = 5
_MAX_GROUPS = 8
"""Groups of one number that are read; a mask of 2^35 pixels needs eight."""


def encode_rle(mask: CroppedMask, size_hw: tuple[int, int]) -> str:
    """Encode a mask; the work depends on its box and its outline, not on the raster.

    Args:
        mask: The mask.
        size_hw: Height and width of the raster, in pixels.

    Returns:
        Compressed counts, as `pycocotools.mask.encode` returns them.
    """
    height, width = size_hw
    changes = _changes(mask, height)
    bounds = np.concatenate(([0], changes, [height * width] if changes[-1] < height * width else []))
    return _compress(np.diff(bounds).astype(np.int64))


def decode_rle(counts: str, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode a mask.

    Args:
        counts: Compressed counts.
        size_hw: Height and width of the raster, in pixels.

    Returns:
        bool (H, W).

    Raises:
        InputError: The counts are damaged, or do not fill the raster.
    """
    height, width = size_hw
    runs = _runs_of(counts, size_hw)
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def decode_cropped(counts: str, size_hw: tuple[int, int]) -> CroppedMask:
    """Decode a mask that is not empty, and crop it; the work depends on the columns that it reaches.

    Args:
        counts: Compressed counts.
        size_hw: Height and width of the raster, in pixels.

    Raises:
        InputError: The counts are damaged or do not fill the raster, or the mask is empty.
    """
    height = size_hw[0]
    runs = _runs_of(counts, size_hw)
    ends = np.cumsum(runs)
    filled = np.flatnonzero(runs[1::2]) * 2 + 1
    if len(filled) == 0:
        raise InputError("RLE: the mask of an instance is empty")
    first, last = int(filled[0]), int(filled[-1])
    x0, x1 = int(ends[first - 1]) // height, int(ends[last] - 1) // height + 1
    inner = runs[first - 1 : last + 1].copy()
    inner[0] = ends[first - 1] - x0 * height
    columns = np.zeros((x1 - x0) * height, np.bool_)
    columns[: int(inner.sum())] = np.repeat(np.arange(len(inner)) % 2 == 1, inner)
    mask = crop_mask(columns.reshape(x1 - x0, height).T, (x0, 0), size_hw)
    assert mask is not None, "it has a filled run"
    return mask


def decode_counts(counts: str) -> NDArray[np.int64]:
    """Lengths of the runs of a mask, column by column, background first.

    Raises:
        InputError: The counts are damaged.
    """
    try:
        characters = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - _FIRST_CHARACTER
    except UnicodeEncodeError as exc:
        raise InputError(f"RLE: {exc}") from exc
    if len(characters) == 0 or ((characters < 0) | (characters >= 2 * _MORE)).any() or characters[-1] & _MORE:
        raise InputError("RLE: it is empty, incomplete, or holds a character that COCO's counts cannot hold")
    last = np.flatnonzero((characters & _MORE) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    if int((last - first).max()) >= _MAX_GROUPS:
        raise InputError(f"RLE: one of its numbers has more than {_MAX_GROUPS} characters")
    digit = np.arange(len(characters)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((characters & (_MORE - 1)) << (_GROUP_BITS * digit), first)
    numbers -= np.where(characters[last] & _SIGN, np.int64(1) << (_GROUP_BITS * (last - first + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _runs_of(counts: str, size_hw: tuple[int, int]) -> NDArray[np.int64]:
    height, width = size_hw
    runs = decode_counts(counts)
    if (runs < 0).any() or int(runs.sum()) != height * width:
        raise InputError(f"RLE: its runs do not fill a raster of {height} x {width} (height x width)")
    return runs


def _changes(mask: CroppedMask, height: int) -> NDArray[np.int64]:
    """Positions, column by column, at which the mask begins or ends; ascending.

    Rows are compared as packed bits, eight pixels at once. A run that ends at the bottom of a column and one that
    begins at the top of the next change at the same position: they are one run.
    """
    x0, y0, _, _ = mask.box_xyxy
    bits = mask.bits
    edges = np.zeros((len(bits) + 1, bits.shape[1]), np.uint8)
    edges[:-1] = bits
    edges[1:] ^= bits
    rows, columns = np.nonzero(edges)
    found, bit = np.nonzero(np.unpackbits(edges[rows, columns][:, None], axis=1))
    positions = np.sort((x0 + columns[found] * 8 + bit) * height + y0 + rows[found])
    is_pair = positions[1:] == positions[:-1]
    keep = np.ones(len(positions), np.bool_)
    keep[1:] &= ~is_pair
    keep[:-1] &= ~is_pair
    return positions[keep]


def _compress(runs: NDArray[np.int64]) -> str:
    left = runs.copy()
    left[3:] -= runs[1:-2]
    written = np.zeros((len(left), _MAX_GROUPS), np.uint8)
    has_group = np.zeros(written.shape, np.bool_)
    more = np.ones(len(left), np.bool_)
    for group in range(_MAX_GROUPS):
        has_group[:, group] = more
        value = left & (_MORE - 1)
        left >>= _GROUP_BITS
        more = more & (left != np.where(value & _SIGN, -1, 0))
        written[:, group] = value + np.where(more, _MORE, 0) + _FIRST_CHARACTER
        if not more.any():
            break
    return written[has_group].tobytes().decode("ascii")
