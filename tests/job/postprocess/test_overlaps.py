from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.postprocess.overlaps import separate
from job.rules.rules import OverlapRule, rules_of_prompts
from tests.job.postprocess.instances import instance, rectangles

Box = tuple[int, int, int, int]


def kept(boxes: Sequence[Box]) -> list[int]:
    """Numbers of those that stay, of rectangles in this order."""
    found = [instance("car", rectangles(box), query=i) for i, box in enumerate(boxes)]
    return [one.query for one in separate(found, OverlapRule()).kept]


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
    found = separate([instance("person", mask, score=0.41), instance("passenger", mask, score=0.99)], OverlapRule())
    assert [one.class_name for one in found.kept] == ["person"]


def test_boxes_do_not_matter() -> None:
    """Two masks of one box that share few pixels."""
    frame = rectangles((0, 0, 100, 2), (0, 98, 100, 100), (0, 0, 2, 100), (98, 0, 100, 100))
    cross = rectangles((0, 49, 100, 51), (49, 0, 51, 100))
    assert frame.box_xyxy == cross.box_xyxy
    assert len(separate([instance("car", frame), instance("car", cross)], OverlapRule()).kept) == 2


OVERLAPPING = [
    instance("car", rectangles((0, 0, 10, 100)), 0, 0.5),
    instance("car", rectangles((0, 20, 10, 120)), 1, 0.9),
    instance("person", rectangles((0, 40, 10, 140)), 2, 0.6),
    instance("passenger", rectangles((0, 42, 10, 142)), 3, 0.7),
]
"""IoU of neighbours 2/3, 2/3 and 98/102; of the first and third 3/7."""


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(OverlapRule(), [0, 2], id="first"),
        pytest.param(OverlapRule(keep="best"), [1], id="best"),
        pytest.param(OverlapRule(max_iou=0.7), [0, 1, 2], id="first, 0.7"),
        pytest.param(OverlapRule(max_iou=0.7, keep="best"), [0, 1, 3], id="best, 0.7"),
        pytest.param(OverlapRule(across="class"), [0, 2], id="first of a class, passengers are persons"),
        pytest.param(OverlapRule(keep="best", across="class"), [1, 3], id="best of a class"),
        pytest.param(OverlapRule(max_iou=1), [0, 1, 2, 3], id="off"),
    ],
)
def test_which_one_is_kept(rule: OverlapRule, expected: list[int]) -> None:
    separation = separate(OVERLAPPING, rule, rules_of_prompts(("car", "person"), 0.4).found_class)
    assert [one.query for one in separation.kept] == expected
    assert [one.query for one in separation.dropped] == [i for i in range(4) if i not in expected]


def test_of_equal_scores_the_earlier_is_kept() -> None:
    found = [instance("car", rectangles((0, 0, 10, 10)), query, 0.5) for query in range(3)]
    assert [one.query for one in separate(found, OverlapRule(keep="best")).kept] == [0]


scored_boxes = st.lists(
    st.tuples(st.integers(0, 12), st.integers(4, 12), st.sampled_from([0.2, 0.3, 0.5, 0.7, 0.9])), max_size=10
)


@settings(deadline=None)
@given(scored_boxes, st.sampled_from(["all", "class"]))
def test_with_best_a_lower_threshold_loses_nothing(boxes: list[tuple[int, int, float]], across: str) -> None:
    found = [
        instance("car" if i % 2 else "person", rectangles((x, 0, x + width, 10)), i, score)
        for i, (x, width, score) in enumerate(boxes)
    ]
    rule = OverlapRule(keep="best", across="all" if across == "all" else "class")
    high = separate([one for one in found if one.score > 0.4], rule).kept
    low = separate(found, rule).kept
    assert {one.query for one in high} == {one.query for one in low if one.score > 0.4}
