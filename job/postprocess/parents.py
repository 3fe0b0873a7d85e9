"""The car that holds a license plate or a passenger."""

from __future__ import annotations

from collections.abc import Sequence

from job.postprocess.instances import CAR, LICENSE_PLATE, PASSENGER, Instance
from job.postprocess.masks import intersection_area
from job.postprocess.passengers import is_inside

HELD_CLASSES = (LICENSE_PLATE, PASSENGER)


def find_parents(
    held: Sequence[Instance], painted: Sequence[Instance], values: Sequence[int]
) -> tuple[int | None, ...]:
    """Find the car that holds each license plate and each passenger.

    A car holds an instance by the passenger rule (`is_inside`); of several cars it is the one that shares the most
    pixels with it (ties: the earlier).

    Args:
        held: Instances of any class.
        painted: Instances of the mask.
        values: Value of each of these in the mask.

    Returns:
        For each instance of `held` the value of its car; None without a car, and for other classes.
    """
    cars = [pair for pair in zip(painted, values, strict=True) if pair[0].class_name == CAR]
    return tuple(_parent(one, cars) if one.class_name in HELD_CLASSES else None for one in held)


def _parent(held: Instance, cars: Sequence[tuple[Instance, int]]) -> int | None:
    shared = [(intersection_area(held.mask, car.mask), value) for car, value in cars if is_inside(held.mask, car.mask)]
    return max(shared, key=lambda pair: pair[0])[1] if shared else None
