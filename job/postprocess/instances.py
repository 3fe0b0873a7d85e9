"""An instance (one object in one image), and the names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from job.postprocess.masks import CroppedMask

CAR = "car"
PERSON = "person"
PASSENGER = "passenger"
LICENSE_PLATE = "license_plate"


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        class_name: Its class.
        score: 0 to 1.
        query: Query of the model that found it; it orders the instances of a class.
        mask: Its pixels.
        prompt: Prompt that found it.
    """

    class_name: str
    score: float
    query: int
    mask: CroppedMask
    prompt: str = ""


def class_name_of(prompt: str) -> str:
    """`license_plate` of `license plate`."""
    return prompt.replace(" ", "_")


def considered_classes(prompts: Sequence[str]) -> tuple[str, ...]:
    """Classes in the order of the output: those of the prompts, then `passenger` if car and person are among them."""
    names = tuple(class_name_of(prompt) for prompt in prompts)
    return (*names, PASSENGER) if {CAR, PERSON} <= set(names) else names
