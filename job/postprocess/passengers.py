"""The passenger rule: occupants in containers, persons in cars by default, change their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from job.postprocess.instances import Instance
from job.postprocess.masks import Box, CroppedMask, intersection_area
from job.rules.rules import PassengerRule

BOX_TOLERANCE = 10
"""Pixels added to each side of a car's box for the weaker rule."""


def split_passengers(instances: Sequence[Instance], rule: PassengerRule) -> tuple[Instance, ...]:
    """Change the class of occupants in containers: of persons in cars to passenger.

    Args:
        instances: By class in the order of the output.
        rule: The classes.

    Returns:
        The same instances, passengers last; otherwise in their order.
    """
    containers = [instance.mask for instance in instances if instance.class_name == rule.container]
    others: list[Instance] = []
    passengers: list[Instance] = []
    for instance in instances:
        if instance.class_name == rule.occupant and any(is_inside(instance.mask, mask) for mask in containers):
            passengers.append(replace(instance, class_name=rule.name))
        else:
            others.append(instance)
    return (*others, *passengers)


def is_inside(person: CroppedMask, car: CroppedMask) -> bool:
    """Whether a person is in a car.

    The centre of the person's box lies in the car's box (edges count), and more than 0.6 of the person is car, or
    more than 0.4 of it with its box inside the car's box grown by `BOX_TOLERANCE`. Shares are compared as integers,
    so a share of exactly 0.6 is not more than 0.6.
    """
    if not _has_centre_in(person.box_xyxy, car.box_xyxy):
        return False
    shared, area = intersection_area(person, car), person.area
    return 5 * shared > 3 * area or (5 * shared > 2 * area and _lies_in(person.box_xyxy, car.box_xyxy))


def _has_centre_in(inner: Box, outer: Box) -> bool:
    twice_x, twice_y = inner[0] + inner[2], inner[1] + inner[3]
    return 2 * outer[0] <= twice_x <= 2 * outer[2] and 2 * outer[1] <= twice_y <= 2 * outer[3]


def _lies_in(inner: Box, outer: Box) -> bool:
    return (
        inner[0] >= outer[0] - BOX_TOLERANCE
        and inner[1] >= outer[1] - BOX_TOLERANCE
        and inner[2] <= outer[2] + BOX_TOLERANCE
        and inner[3] <= outer[3] + BOX_TOLERANCE
    )
