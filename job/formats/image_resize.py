"""Resize images to the model's square, bit-identical to torch on a CPU.

sam3's processor resizes uint8 with torch's antialiased bilinear filter: horizontally, rounded to uint8, then
vertically, with weights rounded to as many bits as 16-bit integers hold (ATen, UpSampleKernelAVXAntialias.h). Pillow's
filter is the same with finer weights: about one pixel in 500 differs by one level, which changed scores of the demo
model by more than 0.001.

The sums below are exact in any order, so matrix products of whole blocks of output pixels give torch's bits: an
integer weight over a power of two times a pixel, and all sums of such products, fit into the chosen float type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from PIL import Image

_BLOCK = 16
_ROWS = 256
# With at most this many fractional bits, the sums, which are below 256, fit into a float32.
_FLOAT32_BITS = 16
_MAX_BITS, _MAX_WEIGHT = 22, 1 << 15
# OpenBLAS computes products up to this size (rows x inputs x outputs) in the calling thread.
_PRODUCT = 1 << 19


def resize_to_square(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """Resize an upright RGB image to a square, without keeping the aspect ratio.

    Returns:
        uint8 (side, side, 3).
    """
    across, down = _filter_of(picture.width, side), _filter_of(picture.height, side)
    narrowed = np.empty((3, picture.height, side), np.uint8)
    for top in range(0, picture.height, _ROWS):
        bottom = min(top + _ROWS, picture.height)
        planes = picture.crop((0, top, picture.width, bottom)).split()
        across.apply(np.stack([np.asarray(plane) for plane in planes]), narrowed[:, top:bottom])
    square = np.empty((3, side, side), np.uint8)
    down.apply(narrowed.transpose(0, 2, 1), square.transpose(0, 2, 1))
    return np.ascontiguousarray(square.transpose(1, 2, 0))


@dataclass(frozen=True)
class _Block:
    """Outputs `first` to `last` are inputs `start` to `end` times `weights` (end - start, last - first)."""

    first: int
    last: int
    start: int
    end: int
    weights: NDArray[np.floating]


@dataclass(frozen=True)
class _Filter:
    """A resize along one axis."""

    blocks: tuple[_Block, ...]
    rows: int

    def apply(self, planes: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Resize the last axis of uint8 (3, rows, inputs) into (3, rows, outputs)."""
        kind = self.blocks[0].weights.dtype
        for top in range(0, planes.shape[1], self.rows):
            band = planes[:, top : top + self.rows].astype(kind)
            for block in self.blocks:
                summed = band[:, :, block.start : block.end] @ block.weights
                # Round half up: add 0.5, and the conversion to uint8 truncates.
                summed += 0.5
                out[:, top : top + self.rows, block.first : block.last] = summed


@lru_cache(maxsize=32)
def _filter_of(inputs: int, outputs: int) -> _Filter:
    starts, sizes, weights = _weights(inputs, outputs)
    fixed, bits = _fixed_point(weights)
    kind = np.float32 if bits <= _FLOAT32_BITS else np.float64
    blocks = tuple(_blocks(starts, sizes, (fixed / (1 << bits)).astype(kind)))
    widest = max(block.end - block.start for block in blocks)
    return _Filter(blocks=blocks, rows=max(1, min(_ROWS, _PRODUCT // (widest * _BLOCK))))


def _weights(inputs: int, outputs: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """First input and number of inputs of every output (outputs,), and their weights (outputs, taps)."""
    scale = inputs / outputs
    support = max(scale, 1.0)
    taps = np.arange(math.ceil(support) * 2 + 1)
    centres = scale * (np.arange(outputs) + 0.5)
    starts = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    sizes = np.minimum((centres + support + 0.5).astype(np.int64), inputs) - starts
    distances = np.abs((taps + starts[:, None] - centres[:, None] + 0.5) * (1.0 / support))
    weights = np.where((distances < 1.0) & (taps < sizes[:, None]), 1.0 - distances, 0.0)
    # Added one by one, as torch does: numpy.sum adds in groups.
    totals = np.add.accumulate(weights, axis=1)[:, -1:]
    return starts, np.clip(sizes, 0, len(taps)), weights / totals


def _fixed_point(weights: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """Weights as integers over a power of two, and its exponent: the most bits that the largest weight allows."""
    largest = float(weights.max())
    bits = 0
    while bits < _MAX_BITS and int(0.5 + largest * (1 << (bits + 1))) < _MAX_WEIGHT:
        bits += 1
    return (0.5 + weights * (1 << bits)).astype(np.int64), bits


def _blocks(starts: NDArray[np.int64], sizes: NDArray[np.int64], weights: NDArray[np.floating]) -> Iterator[_Block]:
    for first in range(0, len(starts), _BLOCK):
        last = min(first + _BLOCK, len(starts))
        start, end = int(starts[first]), int((starts[first:last] + sizes[first:last]).max())
        dense = np.zeros((end - start, last - first), weights.dtype)
        for i in range(first, last):
            at = starts[i] - start
            dense[at : at + sizes[i], i - first] = weights[i, : sizes[i]]
        yield _Block(first, last, start, end, dense)
