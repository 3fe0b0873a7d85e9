"""Instances for tests: masks given as rectangles."""

from __future__ import annotations

import numpy as np

from job.postprocess.instances import Instance
from job.postprocess.masks import CroppedMask, crop_mask

SIZE_HW = (200, 300)


def rectangles(*boxes_xyxy: tuple[int, int, int, int], size_hw: tuple[int, int] = SIZE_HW) -> CroppedMask:
    """The union of rectangles."""
    raster = np.zeros(size_hw, np.bool_)
    for x0, y0, x1, y1 in boxes_xyxy:
        raster[y0:y1, x0:x1] = True
    mask = crop_mask(raster, (0, 0), size_hw)
    assert mask is not None
    return mask


def instance(class_name: str, mask: CroppedMask, query: int = 0, score: float = 0.9) -> Instance:
    return Instance(class_name, score, query, mask)


def pixels(count: int, size_hw: tuple[int, int] = SIZE_HW) -> list[Instance]:
    """Cars of one pixel each, side by side in the order of the raster."""
    width = size_hw[1]
    return [
        instance("car", rectangles((i % width, i // width, i % width + 1, i // width + 1), size_hw=size_hw), query=i)
        for i in range(count)
    ]
