"""Label Studio's run lengths of a brush mask.

The mask is an image of four channels with the values 0 and 255, row by row. A header holds the number of values (32
bits), the bits of a value less one (5 bits) and four bit lengths less one (4 bits each). Each run follows as: a bit
that is set, the number of its bit length (2 bits), its length less one, its value (thi-ng/umbrella, rle-pack).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHANNELS = 4
_VALUE_BITS = 8
_LENGTH_BITS = np.array([3, 4, 8, 16])
_LONGEST = 1 << 16
_CODE_BITS = 1 + 2 + 16 + _VALUE_BITS


def encode_brush(pixels: NDArray[np.bool_]) -> bytes:
    """Encode a mask.

    Args:
        pixels: bool (H, W).

    Returns:
        The bytes that Label Studio stores as a list of numbers.
    """
    lengths, inside = _runs(pixels.ravel())
    kind = np.searchsorted(1 << _LENGTH_BITS, lengths)
    width = _LENGTH_BITS[kind]
    head = (1 << 2) | kind
    code = (((head << width) | (lengths - 1)) << _VALUE_BITS) | np.where(inside, 255, 0)
    total = 3 + width + _VALUE_BITS
    indexes = np.arange(_CODE_BITS)
    bits = (code[:, None] >> np.maximum(total[:, None] - 1 - indexes, 0)) & 1
    body = bits[indexes < total[:, None]]
    header = f"{pixels.size * _CHANNELS:032b}{_VALUE_BITS - 1:05b}" + "".join(f"{b - 1:04b}" for b in _LENGTH_BITS)
    return np.packbits(np.concatenate((np.array([int(bit) for bit in header]), body)).astype(np.uint8)).tobytes()


def _runs(flat: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Lengths in values, none above the longest that is allowed, and whether each is inside the mask."""
    bounds = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [len(flat)]))
    lengths = np.diff(bounds) * _CHANNELS
    pieces = -(-lengths // _LONGEST)
    inside = np.repeat(flat[bounds[:-1]], pieces)
    split = np.full(int(pieces.sum()), _LONGEST)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * _LONGEST
    return split, inside
