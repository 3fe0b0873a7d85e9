from __future__ import annotations

import pytest

from job.postprocess.masks import reorient
from job.postprocess.passengers import is_inside, split_passengers
from job.rules.rules import PassengerRule
from tests.job.postprocess.instances import instance, rectangles

Box = tuple[int, int, int, int]
CAR = (100, 50, 200, 150)
RULE = PassengerRule()


def car_with_hole(shared_rows: int) -> tuple[Box, ...]:
    """A car that covers the first rows, of ten, of the person in its hole."""
    x0, y0, x1, y1 = CAR
    return ((x0, y0, x1, 90 + shared_rows), (x0, 100, x1, y1), (x0, y0, 140, y1), (150, y0, x1, y1))


PERSON_IN_THE_HOLE = (140, 90, 150, 100)


@pytest.mark.parametrize(
    ("shared_rows", "expected"),
    [
        pytest.param(10, True, id="all"),
        pytest.param(7, True, id="0.7"),
        pytest.param(6, True, id="0.6 well inside"),
        pytest.param(5, True, id="0.5 well inside"),
        pytest.param(4, False, id="0.4 exactly"),
        pytest.param(0, False, id="none"),
    ],
)
def test_well_inside_more_than_two_fifths_must_be_car(shared_rows: int, expected: bool) -> None:
    car = rectangles(*car_with_hole(shared_rows))
    assert is_inside(rectangles(PERSON_IN_THE_HOLE), car) is expected


@pytest.mark.parametrize(
    ("person", "expected"),
    [
        pytest.param((110, 45, 120, 145), True, id="0.95, above the box by 5"),
        pytest.param((110, 110, 120, 160), True, id="0.8, at 10 below"),
        pytest.param((110, 135, 120, 160), True, id="0.6 exactly, at 10 below"),
        pytest.param((110, 134, 120, 161), False, id="16/27, at 11 below"),
        pytest.param((110, 129, 120, 164), False, id="0.6 exactly, at 14 below"),
        pytest.param((110, 128, 120, 164), True, id="22/36, at 14 below"),
        pytest.param((85, 60, 115, 70), False, id="0.5, at 15 left of it, centre on the edge"),
        pytest.param((90, 60, 110, 70), True, id="0.5, at 10 left, centre on the edge"),
        pytest.param((89, 60, 111, 70), False, id="0.5, at 11 left, centre on the edge"),
        pytest.param((190, 60, 210, 70), True, id="0.5, at 10 right, centre on the edge"),
        pytest.param((189, 60, 211, 70), False, id="0.5, at 11 right, centre on the edge"),
        pytest.param((120, 40, 130, 60), True, id="0.5, at 10 above, centre on the edge"),
        pytest.param((120, 39, 130, 61), False, id="0.5, at 11 above, centre on the edge"),
        pytest.param((120, 140, 130, 160), True, id="0.5, at 10 below, centre on the edge"),
        pytest.param((120, 139, 130, 161), False, id="0.5, at 11 below, centre on the edge"),
        pytest.param((91, 60, 108, 70), False, id="centre half a pixel left of the edge"),
        pytest.param((192, 60, 209, 70), False, id="centre half a pixel right of the edge"),
        pytest.param((120, 41, 130, 58), False, id="centre half a pixel above the edge"),
        pytest.param((120, 142, 130, 159), False, id="centre half a pixel below the edge"),
        pytest.param((10, 10, 20, 20), False, id="elsewhere"),
    ],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_edges_of_the_rule(person: Box, expected: bool, orientation: int) -> None:
    """A full car; turned and mirrored pictures have the same passengers."""
    car, someone = reorient(rectangles(CAR), orientation), reorient(rectangles(person), orientation)
    assert is_inside(someone, car) is expected


def test_passenger_needs_the_box_centre_inside_the_car() -> None:
    """Nearly all pixels are in the car, but a thin arm draws the box's centre out of it."""
    person = rectangles((150, 60, 200, 140), (200, 100, 280, 101))
    assert not is_inside(person, rectangles(CAR))


def test_boxes_are_tight_around_all_of_a_mask() -> None:
    """Two far parts of a car make one box: the person between them has the centre in it, but shares nothing."""
    car = rectangles((0, 0, 40, 100), (260, 0, 300, 100))
    assert not is_inside(rectangles((140, 40, 160, 60)), car)
    assert is_inside(rectangles((10, 40, 30, 60)), car)


def test_passenger_needs_only_one_car() -> None:
    person = instance("person", rectangles((110, 60, 120, 80)), query=7, score=0.55)
    cars = [instance("car", rectangles((0, 0, 50, 50))), instance("car", rectangles(CAR), query=1)]
    split = split_passengers([*cars, person], RULE)
    assert [found.class_name for found in split] == ["car", "car", "passenger"]
    assert (split[2].score, split[2].query, split[2].mask) == (0.55, 7, person.mask)


def test_two_cars_that_share_two_fifths_of_a_person_each_do_not_add_up() -> None:
    person = rectangles((140, 20, 150, 120))
    upper, lower = rectangles((100, 30, 200, 70)), rectangles((100, 70, 200, 110))
    assert is_inside(person, rectangles((100, 30, 200, 110)))
    found = [instance("car", upper), instance("car", lower, query=1), instance("person", person)]
    assert split_passengers(found, RULE)[-1].class_name == "person"


def test_passengers_come_last_and_all_others_stay_in_order() -> None:
    inside, outside = rectangles((110, 60, 120, 80)), rectangles((10, 10, 20, 20))
    plate, car = rectangles((110, 60, 121, 80)), rectangles(CAR)
    found = [
        instance("person", inside, 0),
        instance("person", outside, 1),
        instance("person", inside, 2),
        instance("license_plate", plate, 3),
        instance("car", car, 4),
    ]
    listed = [(one.class_name, one.query) for one in split_passengers(found, RULE)]
    assert listed == [("person", 1), ("license_plate", 3), ("car", 4), ("passenger", 0), ("passenger", 2)]


@pytest.mark.parametrize("class_name", ["license_plate", "car", "dog"])
def test_only_persons_become_passengers(class_name: str) -> None:
    found = (instance("car", rectangles(CAR)), instance(class_name, rectangles((110, 60, 120, 80)), 1))
    assert split_passengers(found, RULE) == found
