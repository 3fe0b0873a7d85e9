"""The overlap rule: of two instances that overlap, one is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from job.postprocess.instances import Instance
from job.postprocess.masks import intersection_area
from job.rules.rules import OverlapRule


@dataclass(frozen=True)
class Separation:
    """Instances that are kept, and those that are dropped; both in their order."""

    kept: tuple[Instance, ...]
    dropped: tuple[Instance, ...]


def separate(instances: Sequence[Instance], rule: OverlapRule, found_class: Callable[[str], str] = str) -> Separation:
    """Drop every instance whose mask IoU with a kept one before it is more than `rule.max_iou`.

    `before` is the order of the instances with `keep: first`, and the order of their scores, highest first (ties: the
    earlier), with `keep: best`. So with `best` a lower threshold adds instances and removes none.

    Args:
        instances: In the order of the output.
        rule: The rule.
        found_class: For `across: class`, the class by which instances are compared, of their class name.
    """
    order = range(len(instances))
    ranked = sorted(order, key=lambda i: (-instances[i].score, i)) if rule.keep == "best" else order
    is_across_all = rule.across == "all"
    groups: dict[str, list[tuple[Instance, int]]] = {}
    kept: set[int] = set()
    for i in ranked:
        instance, area = instances[i], instances[i].mask.area
        before = groups.setdefault("" if is_across_all else found_class(instance.class_name), [])
        if not any(_overlap(instance, area, other, other_area, rule.max_iou) for other, other_area in before):
            before.append((instance, area))
            kept.add(i)
    return Separation(
        kept=tuple(instances[i] for i in order if i in kept),
        dropped=tuple(instances[i] for i in order if i not in kept),
    )


def _overlap(a: Instance, a_area: int, b: Instance, b_area: int, max_iou: float) -> bool:
    """Whether IoU > `max_iou`, without a division; impossible if the area ratio is at most `max_iou`.

    Products with 0.5 are exact, so an IoU of exactly 0.5 is allowed.
    """
    if min(a_area, b_area) <= max_iou * max(a_area, b_area):
        return False
    shared = intersection_area(a.mask, b.mask)
    return shared > max_iou * (a_area + b_area - shared)
