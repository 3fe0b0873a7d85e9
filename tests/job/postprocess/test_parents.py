from __future__ import annotations

import pytest

from job.postprocess.parents import find_parents
from job.rules.rules import PassengerRule
from tests.job.postprocess.instances import instance, rectangles

LEFT = instance("car", rectangles((0, 0, 100, 100)))
RIGHT = instance("car", rectangles((60, 0, 200, 100)))
VAN = instance("van", rectangles((0, 0, 300, 200)))


@pytest.mark.parametrize(
    ("class_name", "box", "parent"),
    [
        ("license_plate", (10, 10, 30, 20), 1),
        ("passenger", (10, 10, 30, 20), 1),
        ("license_plate", (150, 10, 170, 20), 2),
        ("license_plate", (95, 10, 115, 20), 2),
        ("license_plate", (85, 10, 104, 20), 2),
        ("license_plate", (70, 10, 90, 20), 1),
        ("license_plate", (230, 10, 250, 20), None),
        ("license_plate", (190, 80, 204, 104), 2),
        ("license_plate", (180, 90, 220, 110), None),
        ("person", (10, 10, 30, 20), None),
        ("car", (10, 10, 30, 20), None),
    ],
    ids=[
        "plate", "passenger", "plate of the other car", "mostly on the right", "more pixels on the right",
        "equal shares", "on no car", "half of it, and close", "a quarter of it", "person", "car",
    ],
)  # fmt: skip
def test_the_car_with_the_most_shared_pixels_is_the_parent(
    class_name: str, box: tuple[int, int, int, int], parent: int | None
) -> None:
    held = instance(class_name, rectangles(box))
    assert find_parents([held], [LEFT, RIGHT, VAN], [1, 2, 3], PassengerRule()) == (parent,)


def test_each_instance_has_its_own_parent() -> None:
    plates = [instance("license_plate", rectangles(box)) for box in ((10, 10, 20, 15), (150, 10, 160, 15))]
    assert find_parents([LEFT, *plates, RIGHT], [LEFT, RIGHT], [254, 127], PassengerRule()) == (None, 254, 127, None)


OWN = PassengerRule(occupant="driver", container="van", name="occupant")


@pytest.mark.parametrize(
    ("class_name", "box", "parent"),
    [
        ("license_plate", (10, 10, 30, 20), 1),
        ("license_plate", (230, 10, 250, 20), 3),
        ("occupant", (10, 10, 30, 20), 3),
        ("passenger", (10, 10, 30, 20), None),
        ("driver", (10, 10, 30, 20), None),
    ],
)
def test_a_container_of_the_users_own_rule_is_a_parent(
    class_name: str, box: tuple[int, int, int, int], parent: int | None
) -> None:
    held = instance(class_name, rectangles(box))
    assert find_parents([held], [LEFT, RIGHT, VAN], [1, 2, 3], OWN) == (parent,)


def test_without_a_passenger_rule_plates_have_parents() -> None:
    held = [instance(name, rectangles((10, 10, 30, 20))) for name in ("license_plate", "passenger")]
    assert find_parents(held, [LEFT], [255], None) == (255, None)
