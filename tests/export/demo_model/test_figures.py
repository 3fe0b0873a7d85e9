from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.demo_model.figures import (
    ClassFigures,
    Comparison,
    Figures,
    average_precision,
    class_figures,
    pairwise_box_iou,
    pairwise_mask_iou,
)


def compared(scores: list[float], ious: list[list[float]], objects: int = 1) -> Comparison:
    table = np.array(ious, np.float64).reshape(len(scores), objects)
    return Comparison(np.array(scores, np.float64), table, table, np.zeros(objects, bool))


@pytest.mark.parametrize(
    ("comparison", "precision", "recall"),
    [
        pytest.param(compared([0.9], [[0.8]]), 1.0, 1.0, id="found"),
        pytest.param(compared([0.3], [[0.8]]), 0.0, 0.0, id="found under the threshold"),
        pytest.param(compared([0.9], [[0.4]]), 0.0, 0.0, id="missed"),
        pytest.param(compared([0.9, 0.8], [[0.8], [0.9]]), 0.5, 1.0, id="found twice"),
        pytest.param(compared([0.9, 0.8], [[0.8, 0.0], [0.0, 0.6]], 2), 1.0, 1.0, id="both found"),
        pytest.param(compared([], [], 2), 0.0, 0.0, id="no answer"),
        pytest.param(compared([0.9], [], 0), 0.0, 0.0, id="answer for nothing"),
    ],
)
def test_precision_and_recall(comparison: Comparison, precision: float, recall: float) -> None:
    figures = class_figures([comparison])
    assert (figures.precision, figures.recall) == (precision, recall)


def test_average_precision_is_that_of_coco_on_a_worked_example() -> None:
    # Right, wrong, right of two objects: precision 1 up to recall 1/2, then 2/3: 51 and 50 of 101 points.
    answers = [(np.array([0.9, 0.8, 0.7]), np.array([[0.9, 0.0], [0.1, 0.1], [0.0, 0.9]]))]
    assert average_precision(answers, 0.5) == pytest.approx((51 + 50 * 2 / 3) / 101)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.lists(st.floats(0, 1), min_size=3, max_size=3)), max_size=8))
def test_average_precision_is_at_most_1_and_falls_with_the_iou(
    answers: list[tuple[float, list[float]]],
) -> None:
    scores = np.array([score for score, _ in answers], np.float64)
    ious = np.array([row for _, row in answers], np.float64).reshape(-1, 3)
    loose, strict = (average_precision([(scores, ious)], iou) for iou in (0.5, 1.01))
    assert 0 <= loose <= 1
    assert strict == 0


@settings(deadline=None)
@given(st.integers(1, 6))
def test_perfect_predictions_have_average_precision_1(objects: int) -> None:
    scores = np.linspace(0.9, 0.5, objects)
    assert average_precision([(scores, np.eye(objects))], 0.95) == pytest.approx(1)


def test_pairwise_ious() -> None:
    left, right = np.zeros((2, 2), bool), np.zeros((2, 2), bool)
    left[:, 0], right[0] = True, True
    np.testing.assert_allclose(pairwise_mask_iou(np.array([left]), np.array([left, right])), [[1, 1 / 3]])
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]], np.float64)
    np.testing.assert_allclose(pairwise_box_iou(boxes[:1], boxes), [[1, 1 / 3, 0]])


def test_pairwise_ious_of_nothing_are_empty() -> None:
    assert pairwise_mask_iou(np.zeros((0, 2, 2), bool), np.zeros((3, 2, 2), bool)).shape == (0, 3)
    assert pairwise_box_iou(np.zeros((2, 4)), np.zeros((0, 4))).shape == (2, 0)


def test_report_is_a_table_and_json() -> None:
    of_class = ClassFigures(objects=3, ap50=0.5, ap75=0.25, ap=0.3, box_ap50=0.9, precision=1.0, recall=0.75)
    figures = Figures(2, 7, {"car": of_class}, passengers=(4, 3), absent=(5, 1), unknown=(6, 0))
    assert "| car | 3 | 0.50 | 0.25 | 0.30 | 0.90 | 1.00 / 0.75 |" in figures.as_markdown()
    assert "Passengers found 3 of 4" in figures.as_markdown()
    assert json.loads(figures.as_json())["classes"]["car"]["ap50"] == 0.5
