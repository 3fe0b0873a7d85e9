from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from job.model.session import Grounding
from job.postprocess.annotate import Annotation, annotate_grounding
from job.rules.rules import rules_of_prompts
from tests import reference

PROMPTS = ("car", "license plate", "person")
RULES = rules_of_prompts(PROMPTS, 0.4)
QUERIES = 12
NEAR_ZERO = 2e-5
"""Torch's rounding differs between kinds of machine by less."""

Found = tuple[int, int, float, NDArray[np.float32]]


def grounding_of(found: list[Found], grid: tuple[int, int], prompts: int = len(PROMPTS)) -> Grounding:
    """Of (prompt, query, score, logits), sorted by prompt and query."""
    queries = max([QUERIES, *(query + 1 for _, query, _, _ in found)])
    scores = np.full((prompts, queries), 0.1, np.float32)
    for prompt, query, score, _ in found:
        scores[prompt, query] = score
    return Grounding(
        scores=scores,
        selected=np.array([(prompt, query) for prompt, query, _, _ in found], np.int64).reshape(-1, 2),
        mask_logits=np.array([logits for *_, logits in found], np.float32).reshape(-1, *grid),
    )


@st.composite
def blobs(draw: st.DrawFn, grid: tuple[int, int]) -> NDArray[np.float32]:
    """An ellipse with a ragged edge, perhaps empty; few places and sizes, so that many overlap."""
    eighths = st.integers(0, 8)
    y, x = np.mgrid[: grid[0], : grid[1]] + 0.5
    centre_y, centre_x = grid[0] * draw(eighths) / 8, grid[1] * draw(eighths) / 8
    radius_y, radius_x = (max(grid) * draw(st.sampled_from([0.05, 0.15, 0.2, 0.35, 0.8])) for _ in range(2))
    noise = np.random.default_rng(draw(st.integers(0, 1 << 30))).normal(size=grid) * draw(st.sampled_from([0.01, 0.4]))
    inside = 1 - np.hypot((y - centre_y) / radius_y, (x - centre_x) / radius_x)
    return np.asarray(4 * inside + noise, np.float32)


@st.composite
def groundings(draw: st.DrawFn) -> Grounding:
    grid = draw(st.tuples(st.integers(2, 24), st.integers(2, 24)))
    pairs = st.tuples(st.integers(0, len(PROMPTS) - 1), st.integers(0, QUERIES - 1))
    at = sorted(draw(st.lists(pairs, max_size=9, unique=True)))
    scores = st.sampled_from([0.41, 0.5, 0.5001, 0.99])
    return grounding_of([(*pair, draw(scores), draw(blobs(grid))) for pair in at], grid)


def listed(annotation: Annotation) -> list[tuple[str, float, int, int]]:
    return [
        (one.class_name, one.score, one.query, value)
        for one, value in zip(annotation.instances, annotation.values, strict=True)
    ]


def assert_equal(annotation: Annotation, expected: reference.Expected) -> None:
    assert listed(annotation) == expected.listed
    assert annotation.mask.dtype == np.uint8
    assert np.array_equal(annotation.mask, expected.mask)
    assert len(annotation.beyond_255) == expected.beyond_255
    for name in ("dropped_empty", "dropped_overlap", "hidden"):
        assert getattr(annotation, name) == getattr(expected, name), name


@pytest.mark.torch
@settings(deadline=None, max_examples=250)
@given(
    groundings(),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.integers(1, 8),
    st.sampled_from([PROMPTS, ("person", "dog", "car"), ("car", "tree", "dog"), ("license plate", "person", "x")]),
)
def test_annotation_matches_a_plain_implementation_of_the_rules(
    grounding: Grounding, size: tuple[int, int], orientation: int, prompts: tuple[str, ...]
) -> None:
    for logits in grounding.mask_logits:
        assume(np.abs(reference.resize(logits, size)).min() > NEAR_ZERO)
    expected = reference.expected_annotation(grounding, prompts, size, orientation)
    assert_equal(annotate_grounding(grounding, rules_of_prompts(prompts, 0.4), size, orientation), expected)


def dots(count: int, side: int = 20) -> Grounding:
    """Cars of one cell each."""
    logits = np.full((count, side, side), -1.0, np.float32)
    logits.reshape(count, -1)[np.arange(count), np.arange(count)] = 1.5
    scores = np.random.default_rng(1).choice([0.5, 0.6, 0.7], count)
    return grounding_of([(0, i, float(scores[i]), logits[i]) for i in range(count)], (side, side))


@pytest.mark.torch
def test_highest_scores_are_kept_when_more_than_255_instances_are_found() -> None:
    annotation = annotate_grounding(dots(280), RULES, (20, 20), 6)
    assert_equal(annotation, reference.expected_annotation(dots(280), PROMPTS, (20, 20), 6))
    assert len(annotation.beyond_255) == 25
    assert len({one.query for one in (*annotation.instances, *annotation.beyond_255)}) == 280
    assert annotation.values == tuple(range(1, 256))


def rectangle(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.float32]:
    logits = np.full((40, 40), -5.0, np.float32)
    logits[y0:y1, x0:x1] = 5.0
    return logits


GARAGE: list[Found] = [
    (0, 4, 0.9, rectangle(0, 0, 30, 30)),
    (1, 2, 0.8, rectangle(10, 20, 16, 22)),
    (2, 0, 0.7, rectangle(5, 5, 10, 12)),
    (2, 3, 0.6, rectangle(33, 5, 38, 25)),
    (2, 7, 0.5, rectangle(33, 5, 38, 24)),
    (2, 9, 0.45, np.full((40, 40), -1, np.float32)),
]
"""A car, its plate, a passenger, a person, the person again, and nothing."""


def test_scene_with_cars_persons_and_overlaps() -> None:
    annotation = annotate_grounding(grounding_of(GARAGE, (40, 40)), RULES, (40, 40), 1)
    found = [(name, round(score, 3), query, value) for name, score, query, value in listed(annotation)]
    assert found == [
        ("car", 0.9, 4, 63),
        ("license_plate", 0.8, 2, 252),
        ("person", 0.6, 3, 126),
        ("passenger", 0.7, 0, 189),
    ]
    assert (annotation.dropped_empty, annotation.dropped_overlap, annotation.hidden) == (1, 1, 0)
    assert [one.prompt for one in annotation.instances] == ["car", "license plate", "person", "person"]
    assert annotation.parents == (None, 63, None, 63)
    assert annotation.visible_areas == (900 - 12 - 35, 12, 100, 35)
    assert Counter(annotation.mask.flatten().tolist()) == {0: 600, 63: 900 - 12 - 35, 252: 12, 126: 100, 189: 35}


@pytest.mark.parametrize(
    ("prompts", "classes"),
    [
        pytest.param(("car", "license plate", "rider"), ["car", "license_plate", "rider", "rider"], id="no person"),
        pytest.param(("van", "license plate", "person"), ["van", "license_plate", "person", "person"], id="no car"),
    ],
)
def test_without_cars_or_persons_there_are_no_passengers(prompts: tuple[str, ...], classes: list[str]) -> None:
    annotation = annotate_grounding(grounding_of(GARAGE, (40, 40)), rules_of_prompts(prompts, 0.4), (40, 40), 1)
    assert [one.class_name for one in annotation.instances] == classes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_have_the_size_of_the_stored_raster(orientation: int) -> None:
    annotation = annotate_grounding(grounding_of(GARAGE, (40, 40)), RULES, (90, 50), orientation)
    stored = (90, 50) if orientation < 5 else (50, 90)
    assert annotation.size_hw == annotation.mask.shape == stored
    assert {one.mask.size_hw for one in annotation.instances} == {stored}


@pytest.mark.parametrize("orientation", [1, 6])
def test_mask_is_empty_when_nothing_is_found(orientation: int) -> None:
    annotation = annotate_grounding(grounding_of([], (8, 8)), RULES, (4, 6), orientation)
    assert annotation.mask.shape == ((4, 6) if orientation == 1 else (6, 4))
    assert not annotation.mask.any()
    assert (annotation.instances, annotation.values, annotation.dropped_empty) == ((), (), 0)
