"""From the answers of the model to the annotation: masks, classes, passengers, overlaps and the painted mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.model.session import Grounding
from job.postprocess.instances import Instance, class_name_of, considered_classes
from job.postprocess.masks import logits_to_mask, reorient
from job.postprocess.orientation import swap_if_sideways
from job.postprocess.overlaps import filter_overlaps
from job.postprocess.painting import keep_highest, paint
from job.postprocess.parents import find_parents
from job.postprocess.passengers import split_passengers

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Annotation:
    """Everything that goes into the outputs of one image.

    Attributes:
        mask: uint8 (H, W), painted, in the raster as stored.
        instances: By class (prompt order, then passenger), inside a class by query.
        values: Value of each instance in the mask.
        visible_areas: Number of pixels of each instance in the mask.
        parents: Value of the car that holds it, of each license plate and passenger; None for others.
        beyond_255: Instances that have no value, because 255 others have higher scores.
        dropped_empty: Number of instances without a pixel.
        dropped_overlap: Number of instances that overlap an earlier one.
    """

    mask: NDArray[np.uint8]
    instances: tuple[Instance, ...]
    values: tuple[int, ...]
    visible_areas: tuple[int, ...]
    parents: tuple[int | None, ...]
    beyond_255: tuple[Instance, ...]
    dropped_empty: int
    dropped_overlap: int

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
    grounding: Grounding, prompts: Sequence[str], upright_size_hw: tuple[int, int], orientation: int
) -> Annotation:
    """Apply the annotation rules to one image.

    Args:
        grounding: Answers of the model on the upright picture.
        prompts: In the order of `grounding`.
        upright_size_hw: Height and width of the upright picture, in pixels.
        orientation: EXIF orientation of the raster as stored, 1 to 8.

    Returns:
        The annotation of the raster as stored.
    """
    found = _instances(grounding, prompts, upright_size_hw, orientation)
    classified = split_passengers(found) if len(considered_classes(prompts)) > len(prompts) else tuple(found)
    separate = filter_overlaps(classified)
    kept = keep_highest(separate)
    has_value = {id(instance) for instance in kept}
    painting = paint(kept, swap_if_sideways(upright_size_hw, orientation))
    return Annotation(
        mask=painting.mask,
        instances=kept,
        values=painting.values,
        visible_areas=painting.visible_areas,
        parents=find_parents(kept, kept, painting.values),
        beyond_255=tuple(instance for instance in separate if id(instance) not in has_value),
        dropped_empty=len(grounding.selected) - len(found),
        dropped_overlap=len(classified) - len(separate),
    )


def _instances(
    grounding: Grounding, prompts: Sequence[str], upright_size_hw: tuple[int, int], orientation: int
) -> list[Instance]:
    """Instances with a mask, by prompt and query."""
    found = []
    for (prompt, query), logits in zip(grounding.selected.tolist(), grounding.mask_logits, strict=True):
        mask = logits_to_mask(logits, upright_size_hw)
        if mask is not None:
            score = float(grounding.scores[prompt, query])
            name = class_name_of(prompts[prompt])
            found.append(Instance(name, score, query, reorient(mask, orientation), prompts[prompt]))
    return found
