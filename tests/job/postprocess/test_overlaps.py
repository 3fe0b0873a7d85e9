from __future__ import annotations

from collections.abc import Sequence

import pytest

from job.postprocess.overlaps import filter_overlaps
from tests.job.postprocess.instances import instance, rectangles

Box = tuple[int, int, int, int]


def kept(boxes: Sequence[Box]) -> list[int]:
    """Numbers of those that stay, of rectangles in this order."""
    found = [instance("car", rectangles(box), query=i) for i, box in enumerate(boxes)]
    return [one.query for one in filter_overlaps(found)]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([(0, 0, 9, 9)], [0], id="one"),
        pytest.param([(0, 0, 10, 10), (0, 0, 10, 10)], [0], id="twice the same"),
        pytest.param([(0, 0, 10, 30), (0, 10, 10, 40)], [0, 1], id="IoU exactly 0.5, shifted"),
        pytest.param([(0, 0, 10, 20), (0, 0, 10, 10)], [0, 1], id="IoU exactly 0.5, half of it"),
        pytest.param([(0, 0, 10, 10), (0, 0, 10, 20)], [0, 1], id="IoU exactly 0.5, twice it"),
        pytest.param([(0, 0, 10, 20), (0, 0, 10, 11)], [0], id="IoU 0.55, a part of it"),
        pytest.param([(0, 0, 10, 11), (0, 0, 10, 20)], [0], id="IoU 0.55, the part is first"),
        pytest.param([(0, 0, 1, 150), (0, 50, 1, 200)], [0, 1], id="IoU exactly 100/200"),
        pytest.param([(0, 0, 1, 151), (0, 50, 1, 200)], [0], id="IoU 101/200"),
        pytest.param([(0, 0, 10, 10), (10, 0, 20, 10)], [0, 1], id="side by side"),
        pytest.param([(0, 0, 10, 100), (0, 20, 10, 120), (0, 40, 10, 140)], [0, 2], id="a dropped one drops nothing"),
        pytest.param([(0, 0, 10, 100), (0, 60, 10, 160), (0, 30, 10, 130)], [0, 1], id="with any kept one"),
    ],
)
def test_first_of_overlapping_instances_is_kept(boxes: list[Box], expected: list[int]) -> None:
    assert kept(boxes) == expected


def test_classes_do_not_matter() -> None:
    mask = rectangles((0, 0, 10, 10))
    found = filter_overlaps([instance("person", mask, score=0.41), instance("passenger", mask, score=0.99)])
    assert [one.class_name for one in found] == ["person"]


def test_boxes_do_not_matter() -> None:
    """Two masks of one box that share few pixels."""
    frame = rectangles((0, 0, 100, 2), (0, 98, 100, 100), (0, 0, 2, 100), (98, 0, 100, 100))
    cross = rectangles((0, 49, 100, 51), (49, 0, 51, 100))
    assert frame.box_xyxy == cross.box_xyxy
    assert len(filter_overlaps([instance("car", frame), instance("car", cross)])) == 2
