"""The GPU tables of docs/performance.md are those of the recorded figures, and these are those of the graphs."""

from __future__ import annotations

import json

import pytest

from tests.gpu.cards import CARDS
from tests.gpu.page import FIGURES, PAGE, count_now, tables, with_tables


def test_page_shows_the_recorded_figures() -> None:
    text = PAGE.read_text()
    assert with_tables(text, json.loads(FIGURES.read_text())) == text, "run python -m tests.gpu.page"


def test_a_card_without_a_measurement_says_so() -> None:
    shown = tables(json.loads(FIGURES.read_text()), {"L4": 128.0})
    rows = [x for x in shown.splitlines() if x.endswith(("| 7.8 images/s, 128 ms an image |", "| not measured yet |"))]
    assert [x.split("|")[1].strip() for x in rows] == [x.name for x in CARDS]
    assert sum("not measured yet" in x for x in rows) == len(CARDS) - 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_recorded_figures_are_those_of_the_graphs() -> None:
    """A change of the graphs, of ONNX Runtime or of torch needs `python -m tests.gpu.page --count`."""
    recorded, counted = json.loads(FIGURES.read_text())["now"], count_now()
    for route, figures in counted.items():
        assert route in recorded
        for key in ("launches", "tflop", "gigabytes"):
            assert figures[key] == pytest.approx(recorded[route][key], rel=0.02), (route, key)
