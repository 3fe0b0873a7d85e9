"""Painting of instances into one uint8 mask: one value each, large ones first, so that small ones are visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.postprocess.instances import Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_INSTANCES = 255
_BAND_ROWS = 64


@dataclass(frozen=True)
class Painting:
    """A painted mask.

    Attributes:
        mask: uint8 (H, W), 0 is background.
        values: Value of each instance, in instance order.
        hidden: Number of instances without a visible pixel.
    """

    mask: NDArray[np.uint8]
    values: tuple[int, ...]
    hidden: int


def keep_highest(instances: Sequence[Instance], count: int = MAX_INSTANCES) -> tuple[Instance, ...]:
    """The `count` instances with the highest scores (ties: the earlier), in their order."""
    ranked = sorted(range(len(instances)), key=lambda i: (-instances[i].score, i))
    return tuple(instances[i] for i in sorted(ranked[:count]))


def paint(instances: Sequence[Instance], size_hw: tuple[int, int]) -> Painting:
    """Paint by area, largest first (ties: the earlier); the k-th gets k * (255 // N).

    Args:
        instances: At most 255.
        size_hw: Height and width of the raster, in pixels.

    Raises:
        ValueError: Too many instances for one byte.
    """
    if len(instances) > MAX_INSTANCES:
        raise ValueError(f"{len(instances)} instances do not fit into one byte: at most {MAX_INSTANCES}")
    areas = [instance.mask.area for instance in instances]
    mask = np.zeros(size_hw, np.uint8)
    values = [0] * len(instances)
    for rank, i in enumerate(sorted(range(len(instances)), key=lambda i: (-areas[i], i)), start=1):
        values[i] = rank * (MAX_INSTANCES // len(instances))
        x0, y0, x1, y1 = instances[i].mask.box_xyxy
        mask[y0:y1, x0:x1][instances[i].mask.crop()] = values[i]
    return Painting(mask, tuple(values), count_hidden(mask, values))


def count_hidden(mask: NDArray[np.uint8], values: Sequence[int]) -> int:
    """Number of instances with these values that have no pixel in a painted mask, uint8 (H, W)."""
    visible = _values_in(mask)
    return sum(value not in visible for value in values)


def _values_in(mask: NDArray[np.uint8]) -> set[int]:
    """Values in the mask; counted in bands of rows, because counting takes eight bytes a pixel."""
    found: set[int] = set()
    for top in range(0, len(mask), _BAND_ROWS):
        counts = np.bincount(mask[top : top + _BAND_ROWS].reshape(-1))
        found.update(np.flatnonzero(counts).tolist())
    return found
