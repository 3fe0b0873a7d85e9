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
        visible_areas: Number of pixels in the mask of each instance.
    """

    mask: NDArray[np.uint8]
    values: tuple[int, ...]
    visible_areas: tuple[int, ...]


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
        part = _part(mask, instances[i])
        # Values ascend: the maximum paints over what is there.
        np.maximum(part, instances[i].mask.crop() * np.uint8(values[i]), out=part)
    # No two values are equal, so an instance is visible only inside its box.
    visible = (
        int(np.count_nonzero(_part(mask, instance) == value)) for instance, value in zip(instances, values, strict=True)
    )
    return Painting(mask, tuple(values), tuple(visible))


def _part(mask: NDArray[np.uint8], instance: Instance) -> NDArray[np.uint8]:
    """The pixels of `mask` inside the box of an instance, a view."""
    x0, y0, x1, y1 = instance.mask.box_xyxy
    return mask[y0:y1, x0:x1]


def visible_areas(mask: NDArray[np.uint8], values: Sequence[int]) -> tuple[int, ...]:
    """Number of pixels of each value in a painted mask, uint8 (H, W), whose boxes and values are not trusted.

    They are counted in bands of rows, because counting takes eight bytes a pixel.
    """
    counts = np.zeros(MAX_INSTANCES + 1, np.int64)
    for top in range(0, len(mask), _BAND_ROWS):
        counts += np.bincount(mask[top : top + _BAND_ROWS].reshape(-1), minlength=len(counts))
    return tuple(counts[list(values)].tolist())
