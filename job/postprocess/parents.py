"""The instance that holds another one: the car of a license plate, the container of a passenger."""

from __future__ import annotations

from collections.abc import Sequence

from job.postprocess.instances import Instance
from job.postprocess.masks import intersection_area
from job.postprocess.passengers import is_inside
from job.rules.rules import CAR, LICENSE_PLATE, PassengerRule


def find_parents(
    held: Sequence[Instance], painted: Sequence[Instance], values: Sequence[int], passengers: PassengerRule | None
) -> tuple[int | None, ...]:
    """Find the car that holds each license plate, and the container that holds each passenger.

    A container of the passenger rule holds license plates too.

    It holds an instance by the passenger rule (`is_inside`); of several it is the one that shares the most pixels with
    it (ties: the earlier).

    Args:
        held: Instances of any class.
        painted: Instances of the mask.
        values: Value of each of these in the mask.
        passengers: The passenger rule, or None.

    Returns:
        For each instance of `held` the value of what holds it; None if nothing does, and for other classes.
    """
    containers = {LICENSE_PLATE: {CAR}}
    if passengers is not None:
        containers[LICENSE_PLATE].add(passengers.container)
        containers[passengers.name] = {passengers.container}
    pairs = list(zip(painted, values, strict=True))

    def parent_of(one: Instance) -> int | None:
        allowed = containers.get(one.class_name, set())
        return _parent(one, [pair for pair in pairs if pair[0].class_name in allowed])

    return tuple(parent_of(one) for one in held)


def _parent(held: Instance, holders: Sequence[tuple[Instance, int]]) -> int | None:
    shared = [
        (intersection_area(held.mask, holder.mask), value)
        for holder, value in holders
        if is_inside(held.mask, holder.mask)
    ]
    return max(shared, key=lambda pair: pair[0])[1] if shared else None
