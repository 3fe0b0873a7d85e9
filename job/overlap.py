"""Of instances that cover the same pixels, the first stays."""

from __future__ import annotations

from collections.abc import Sequence

from job.instances import Instance
from job.masks import CroppedMask, intersection_area


def filter_overlaps(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Drop every instance whose mask IoU with one that is kept before it is more than 0.5."""
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
    """IoU > 1/2, in whole numbers; it cannot be when one mask is more than twice the other."""
    if a_area >= 2 * b_area or b_area >= 2 * a_area:
        return False
    shared = intersection_area(a, b)
    return 2 * shared > a_area + b_area - shared
