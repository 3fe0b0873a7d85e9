from __future__ import annotations

import numpy as np
import pytest

from job.rules.rules import class_name_of, exceeds, near_misses, rules_of_prompts


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("car", "car"), ("license plate", "license_plate"), ("red traffic light", "red_traffic_light")],
)
def test_a_class_is_its_prompt_with_underscores(prompt: str, name: str) -> None:
    assert class_name_of(prompt) == name


@pytest.mark.parametrize(
    ("prompts", "classes"),
    [
        pytest.param(("car", "license plate", "person"), ("car", "license_plate", "person", "passenger"), id="default"),
        pytest.param(("person", "tree", "car"), ("person", "tree", "car", "passenger"), id="other order"),
        pytest.param(("car", "license plate"), ("car", "license_plate"), id="no person"),
        pytest.param(("person",), ("person",), id="no car"),
        pytest.param(("red car", "person"), ("red_car", "person"), id="only a kind of car"),
    ],
)
def test_passengers_are_considered_when_cars_and_persons_are(
    prompts: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    assert rules_of_prompts(prompts, 0.4).class_names == classes


def test_thresholds_are_replaced_for_all_or_for_single_classes() -> None:
    rules = rules_of_prompts(("car", "person"), 0.4)
    changed = rules.with_min_scores(0.3, {"person": 0.6})
    assert [one.min_score for one in changed.classes] == [0.3, 0.6]
    assert changed.min_score == 0.3
    assert [one.min_score for one in rules.with_min_scores(None, {"car": 0.2}).classes] == [0.2, 0.4]
    assert (changed.passengers, changed.overlap) == (rules.passengers, rules.overlap)


def test_a_passenger_counts_as_one_of_its_class_before() -> None:
    rules = rules_of_prompts(("car", "person"), 0.4)
    assert [rules.found_class(name) for name in ("car", "person", "passenger")] == ["car", "person", "person"]
    assert rules_of_prompts(("person",), 0.4).found_class("passenger") == "passenger"


def test_a_score_is_compared_in_float32() -> None:
    assert not exceeds(float(np.float32(0.4)), 0.4)
    assert exceeds(float(np.nextafter(np.float32(0.4), np.float32(1))), 0.4)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["car", "person"], []),
        (["Car", "person", "PERSON"], [("Car", "car"), ("PERSON", "person")]),
        (["cars", "License_plate"], []),
    ],
)
def test_names_that_differ_by_case_only(names: list[str], expected: list[tuple[str, str]]) -> None:
    assert near_misses(names) == expected
