"""From the answers of the model to the annotation: masks, classes, passengers, overlaps and the painted mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from job.model.session import Grounding
from job.postprocess.candidates import CandidateLimits, Candidates, select_candidates
from job.postprocess.instances import Instance
from job.postprocess.masks import logits_to_mask, reorient
from job.postprocess.orientation import swap_if_sideways
from job.postprocess.overlaps import separate
from job.postprocess.painting import keep_highest, paint
from job.postprocess.parents import find_parents
from job.postprocess.passengers import split_passengers
from job.rules.rules import Rules

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Annotation:
    """Everything that goes into the outputs of one image.

    Attributes:
        rules: The classes and rules.
        mask: uint8 (H, W), painted, in the raster as stored.
        instances: By class (in their order, then passengers), inside a class by prompt and query.
        values: Value of each instance in the mask.
        visible_areas: Number of pixels of each instance in the mask.
        parents: Value of what holds it, of each license plate and passenger; None for others.
        beyond_255: Instances that have no value, because 255 others have higher scores.
        overlapping: Instances that overlap a kept one.
        dropped_empty: Number of instances without a pixel.
        candidates: Instances that are kept for other thresholds.
    """

    rules: Rules
    mask: NDArray[np.uint8]
    instances: tuple[Instance, ...]
    values: tuple[int, ...]
    visible_areas: tuple[int, ...]
    parents: tuple[int | None, ...]
    beyond_255: tuple[Instance, ...]
    overlapping: tuple[Instance, ...] = ()
    dropped_empty: int = 0
    candidates: Candidates = field(default_factory=Candidates)

    @property
    def dropped_overlap(self) -> int:
        """Number of instances that overlap a kept one."""
        return len(self.overlapping)

    @property
    def hidden(self) -> int:
        """Number of instances that smaller ones cover completely."""
        return self.visible_areas.count(0)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the raster as stored, in pixels."""
        height, width = self.mask.shape
        return height, width


def annotate_grounding(
    grounding: Grounding,
    rules: Rules,
    upright_size_hw: tuple[int, int],
    orientation: int,
    limits: CandidateLimits | None = None,
) -> Annotation:
    """Apply the annotation rules to one image.

    Args:
        grounding: Answers of the model on the upright picture, at a threshold that no class and no limit is below.
        rules: Classes in the order of the prompts of `grounding`, and the rules.
        upright_size_hw: Height and width of the upright picture, in pixels.
        orientation: EXIF orientation of the raster as stored, 1 to 8.
        limits: Which candidates are kept; None for none.

    Returns:
        The annotation of the raster as stored.
    """
    selected = grounding.selected
    scores = grounding.scores[selected[:, 0], selected[:, 1]]
    by_prompt = rules.by_prompt()
    thresholds = np.array([by_prompt[prompt].min_score for prompt in rules.prompts], np.float32)
    is_kept = scores > thresholds[selected[:, 0]]
    kept = np.flatnonzero(is_kept)

    def instances(rows: NDArray[np.int64]) -> Iterator[Instance]:
        return _instances(grounding, rules, rows, upright_size_hw, orientation)

    found = list(instances(kept))
    annotation = apply_rules(found, rules, swap_if_sideways(upright_size_hw, orientation))
    candidates = Candidates()
    if limits is not None:
        below = np.flatnonzero(~is_kept & (scores > np.float32(limits.min_score)))
        highest_first = below[np.argsort(-scores[below], kind="stable")]
        candidates = select_candidates(instances(highest_first), annotation.overlapping, limits.count)
    return replace(annotation, dropped_empty=len(kept) - len(found), candidates=candidates)


def apply_rules(found: Sequence[Instance], rules: Rules, size_hw: tuple[int, int]) -> Annotation:
    """Apply the rules to the instances of one image.

    Args:
        found: Those above the thresholds, with the class that their prompt gives them, by prompt and query.
        rules: The rules.
        size_hw: Height and width of the raster of the masks, in pixels.
    """
    classified = tuple(found) if rules.passengers is None else split_passengers(found, rules.passengers)
    separation = separate(classified, rules.overlap, rules.found_class)
    kept = keep_highest(separation.kept)
    has_value = {id(instance) for instance in kept}
    painting = paint(kept, size_hw)
    return Annotation(
        rules=rules,
        mask=painting.mask,
        instances=kept,
        values=painting.values,
        visible_areas=painting.visible_areas,
        parents=find_parents(kept, kept, painting.values, rules.passengers),
        beyond_255=tuple(instance for instance in separation.kept if id(instance) not in has_value),
        overlapping=separation.dropped,
    )


def _instances(
    grounding: Grounding,
    rules: Rules,
    rows: NDArray[np.int64],
    upright_size_hw: tuple[int, int],
    orientation: int,
) -> Iterator[Instance]:
    """Instances of some rows of `grounding.selected`, in the order of the rows; empty ones are left out."""
    prompts, by_prompt = rules.prompts, rules.by_prompt()
    for row in rows.tolist():
        mask = logits_to_mask(grounding.mask_logits[row], upright_size_hw)
        if mask is not None:
            number, query = grounding.selected[row].tolist()
            yield Instance(
                class_name=by_prompt[prompts[number]].name,
                score=float(grounding.scores[number, query]),
                query=query,
                mask=reorient(mask, orientation),
                prompt=prompts[number],
            )
