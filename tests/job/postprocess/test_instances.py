from __future__ import annotations

import pytest

from job.postprocess.instances import class_name_of, considered_classes


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
    assert considered_classes(prompts) == classes
