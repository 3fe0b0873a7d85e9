"""Classes of a run, and the rules on their instances: values that `run.json` stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

CAR = "car"
PERSON = "person"
PASSENGER = "passenger"
LICENSE_PLATE = "license_plate"


class ClassRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One class.

    Attributes:
        name: Its name in the outputs.
        prompts: Prompts that find it, in order; no other class has one of them.
        min_score: Instances with a higher score are kept, 0 to 1.
        colour: Colour in overlays, `#rrggbb`; None for the default.
    """

    name: str
    prompts: tuple[str, ...]
    min_score: float
    colour: str | None = None


class PassengerRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which instances change their class inside of others.

    Attributes:
        occupant: Class of those that change.
        container: Class that they must be in.
        name: Their class then; no class of the run has this name.
    """

    occupant: str = PERSON
    container: str = CAR
    name: str = PASSENGER


class OverlapRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of two overlapping instances is kept.

    Attributes:
        max_iou: Maximum mask IoU of two kept instances, 0 to 1.
        keep: `first`: the one that is first in the output's order. `best`: the one with the higher score.
        across: `all`: instances of all classes are compared. `class`: those of one class; an occupant that the
            passenger rule has changed counts as one of its class before.
    """

    max_iou: float = 0.5
    keep: Literal["first", "best"] = "first"
    across: Literal["all", "class"] = "all"


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The classes of a run and the rules on their instances.

    Attributes:
        classes: In the order of the output.
        passengers: The passenger rule, or None.
        overlap: The overlap rule.
    """

    classes: tuple[ClassRule, ...]
    passengers: PassengerRule | None = None
    overlap: OverlapRule = OverlapRule()

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of all classes, by class."""
        return tuple(prompt for one in self.classes for prompt in one.prompts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in the order of the output: those with prompts, then that of the passenger rule."""
        names = tuple(one.name for one in self.classes)
        return names if self.passengers is None else (*names, self.passengers.name)

    @property
    def min_score(self) -> float:
        """The lowest threshold of a class: what the model has to find."""
        return min(one.min_score for one in self.classes)

    def by_prompt(self) -> dict[str, ClassRule]:
        """The class of each prompt."""
        return {prompt: one for one in self.classes for prompt in one.prompts}

    def found_class(self, class_name: str) -> str:
        """The class that the prompts gave an instance, whatever the passenger rule has made of it."""
        is_changed = self.passengers is not None and class_name == self.passengers.name
        return self.passengers.occupant if is_changed and self.passengers is not None else class_name

    def with_min_scores(self, min_score: float | None, by_class: Mapping[str, float] | None = None) -> Rules:
        """The same rules with other thresholds.

        Args:
            min_score: For all classes; None keeps theirs.
            by_class: For single classes; these have priority.
        """
        chosen = by_class or {}
        classes = tuple(
            msgspec.structs.replace(
                one, min_score=chosen.get(one.name, one.min_score if min_score is None else min_score)
            )
            for one in self.classes
        )
        return msgspec.structs.replace(self, classes=classes)


def exceeds(score: float, min_score: float) -> bool:
    """Whether a score, a float32 value, is above a threshold: compared in float32, as the model's graph does."""
    return score > float(np.float32(min_score))


def class_name_of(prompt: str) -> str:
    """`license_plate` of `license plate`."""
    return prompt.replace(" ", "_")


def rules_of_prompts(prompts: Sequence[str], min_score: float) -> Rules:
    """The original's rules: a class for each prompt; passengers if `car` and `person` are among them."""
    classes = tuple(ClassRule(name=class_name_of(prompt), prompts=(prompt,), min_score=min_score) for prompt in prompts)
    return Rules(classes=classes, passengers=default_passengers([one.name for one in classes]))


def default_passengers(class_names: Sequence[str]) -> PassengerRule | None:
    """The original's passenger rule, if these classes have `car` and `person`."""
    return PassengerRule() if {CAR, PERSON} <= set(class_names) else None


def near_misses(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Names that differ from `car` or `person` only by case, each with the name that the passenger rule needs."""
    return [(name, name.lower()) for name in class_names if name.lower() in {CAR, PERSON} and name != name.lower()]
