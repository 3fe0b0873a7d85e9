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
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from PIL import Image

_BLOCK = 16
_ROWS = 128
"""Rows in floating point at once. More of them leave the caches of a core."""
# With at most this many fractional bits, the sums, which are below 256, fit into a float32.
_FLOAT32_BITS = 16
_MAX_BITS, _MAX_WEIGHT = 22, 1 << 15
# OpenBLAS computes products up to this size (rows x inputs x outputs) in the calling thread.
_PRODUCT = 1 << 19
_CHANNELS = 3


def resize_to_square(picture: Image.Image | NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize an upright RGB image to a square, without keeping the aspect ratio.

    Args:
        picture: The image, or its pixels as uint8 (H, W, 3) in any memory layout.
        side: Side of the square, in pixels.

    Returns:
        uint8 (side, side, 3).
    """
    height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else (picture.height, picture.width)
    across, down = _filter_of(width, side), _filter_of(height, side)
    narrowed = np.empty((_CHANNELS, height, side), np.uint8)
    step = max(1, min(_ROWS, across.vectors // _CHANNELS))
    for top in range(0, height, step):
        bottom = min(top + step, height)
        across.narrow(_rows_of(picture, top, bottom), narrowed[:, top:bottom])
    square = np.empty((side, side, _CHANNELS), np.uint8)
    for blocks in down.groups():
        down.shorten(narrowed, blocks, square)
    return square


def _rows_of(picture: Image.Image | NDArray[np.uint8], top: int, bottom: int) -> NDArray[np.uint8]:
    """Some rows of an image, uint8 (rows, W, 3)."""
    if isinstance(picture, np.ndarray):
        return picture[top:bottom]
    return np.asarray(picture.crop((0, top, picture.width, bottom)))


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
    """A resize along one axis; a product has at most `vectors` vectors of inputs."""

    blocks: tuple[_Block, ...]
    vectors: int

    def narrow(self, rows: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Resize the columns of uint8 (rows, inputs, 3) into planes (3, rows, outputs)."""
        kind = self.blocks[0].weights.dtype
        planes = rows.transpose(2, 0, 1).astype(kind, order="C")
        vectors = planes.reshape(-1, planes.shape[2])
        summed = np.empty((len(vectors), out.shape[2]), kind)
        for block in self.blocks:
            part = summed[:, block.first : block.last]
            np.matmul(vectors[:, block.start : block.end], block.weights, out=part)
        _round(summed.reshape(out.shape), out)

    def shorten(self, planes: NDArray[np.uint8], blocks: Sequence[_Block], out: NDArray[np.uint8]) -> None:
        """Resize the rows of planes, uint8 (3, inputs, width), into the rows of `blocks` of (outputs, width, 3)."""
        start, end = blocks[0].start, max(block.end for block in blocks)
        rows = planes[:, start:end].transpose(1, 2, 0).astype(blocks[0].weights.dtype, order="C")
        vectors, flat = rows.reshape(end - start, -1), out.reshape(len(out), -1)
        for block in blocks:
            inputs = vectors[block.start - start : block.end - start]
            for left in range(0, flat.shape[1], self.vectors):
                right = left + self.vectors
                _round(block.weights.T @ inputs[:, left:right], flat[block.first : block.last, left:right])

    def groups(self) -> Iterator[tuple[_Block, ...]]:
        """Neighbouring blocks, of about as many inputs as are in floating point at once."""
        count = max(1, 2 * _ROWS // max(block.end - block.start for block in self.blocks))
        for first in range(0, len(self.blocks), count):
            yield self.blocks[first : first + count]


def _round(summed: NDArray[np.floating], out: NDArray[np.uint8]) -> None:
    """Round half up: add 0.5, and the conversion to uint8 truncates."""
    np.add(summed, 0.5, out=out, casting="unsafe")


@lru_cache(maxsize=32)
def _filter_of(inputs: int, outputs: int) -> _Filter:
    starts, sizes, weights = _weights(inputs, outputs)
    fixed, bits = _fixed_point(weights)
    kind = np.float32 if bits <= _FLOAT32_BITS else np.float64
    blocks = tuple(_blocks(starts, sizes, (fixed / (1 << bits)).astype(kind)))
    widest = max(block.end - block.start for block in blocks)
    return _Filter(blocks=blocks, vectors=max(1, _PRODUCT // (widest * _BLOCK)))


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
