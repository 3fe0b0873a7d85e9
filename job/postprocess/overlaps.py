"""The overlap filter: if two instances overlap, the first one is kept."""

from __future__ import annotations

from collections.abc import Sequence

from job.postprocess.instances import Instance
from job.postprocess.masks import CroppedMask, intersection_area

MAX_IOU = 0.5
"""Maximum mask IoU of two kept instances. Products with 0.5 are exact, so an IoU of exactly 0.5 is allowed."""


def filter_overlaps(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Drop every instance whose mask IoU with an earlier kept one is more than `MAX_IOU`."""
    kept: list[Instance] = []
    areas: list[int] = []
    for instance in instances:
        area = instance.mask.area
        pairs = zip(kept, areas, strict=True)
        if not any(_overlap(instance.mask, area, other.mask, other_area) for other, other_area in pairs):
            kept.append(instance)
            areas.append(area)
    return tuple(kept)


def _overlap(a: CroppedMask, a_area: int, b: CroppedMask, b_area: int) -> bool:
    """Whether IoU > `MAX_IOU`, without a division; impossible if the area ratio is at most `MAX_IOU`."""
    if min(a_area, b_area) <= MAX_IOU * max(a_area, b_area):
        return False
    shared = intersection_area(a, b)
    return shared > MAX_IOU * (a_area + b_area - shared)
