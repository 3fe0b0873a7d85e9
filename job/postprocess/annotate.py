"""What the model says to what is annotated: masks, classes, passengers, overlaps, one painted mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.model.session import Grounding
from job.postprocess.instances import Instance, class_name_of, considered_classes
from job.postprocess.masks import logits_to_mask, reorient
from job.postprocess.overlaps import filter_overlaps
from job.postprocess.painting import keep_highest, paint
from job.postprocess.passengers import split_passengers

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDEWAYS = frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class Annotation:
    """Everything that goes into the outputs of one image.

    Attributes:
        mask: uint8 (H, W), painted, in the raster as stored.
        instances: By class (prompt order, then passenger), inside a class by query.
        values: Value of each instance in the mask.
        dropped_empty: Instances without a pixel.
        dropped_overlap: Instances that cover the same pixels as an earlier one.
        dropped_beyond_255: Instances for which a byte has no value.
        hidden: Instances in the lists of which no pixel is left in the mask.
    """

    mask: NDArray[np.uint8]
    instances: tuple[Instance, ...]
    values: tuple[int, ...]
    dropped_empty: int
    dropped_overlap: int
    dropped_beyond_255: int
    hidden: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the raster as stored, in pixels."""
        height, width = self.mask.shape
        return height, width


def annotate_grounding(
    grounding: Grounding, prompts: Sequence[str], upright_size_hw: tuple[int, int], orientation: int
) -> Annotation:
    """Apply the rules of the annotator to one image.

    Args:
        grounding: What the model says of the upright picture.
        prompts: In the order of `grounding`.
        upright_size_hw: Height and width of the picture as a person sees it, in pixels.
        orientation: EXIF orientation of the raster as stored, 1 to 8.

    Returns:
        The annotation of the raster as stored.
    """
    found = _instances(grounding, prompts, upright_size_hw, orientation)
    sorted_out = split_passengers(found) if len(considered_classes(prompts)) > len(prompts) else tuple(found)
    apart = filter_overlaps(sorted_out)
    kept = keep_highest(apart)
    height, width = upright_size_hw
    painting = paint(kept, (width, height) if orientation in _SIDEWAYS else (height, width))
    return Annotation(
        mask=painting.mask,
        instances=kept,
        values=painting.values,
        dropped_empty=len(grounding.selected) - len(found),
        dropped_overlap=len(sorted_out) - len(apart),
        dropped_beyond_255=len(apart) - len(kept),
        hidden=painting.hidden,
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
            found.append(Instance(class_name_of(prompts[prompt]), score, query, reorient(mask, orientation)))
    return found
