"""Compares an artifact with the recorded answers of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from export.parity.machine import machine_name
from job.model.answers import ArtifactSide
from job.model.comparison import OTHER_RESIZE, SCORE_THRESHOLD, TOLERANCES, Tally
from job.model.reference import QUERY_STEP
from job.postprocess.masks import full_mask

if TYPE_CHECKING:
    from export.parity.recording import Recording
    from job.model.artifact import Artifact, ParityFigures, Precision, Tolerance
    from job.model.session import Session


def compare(artifact: Artifact, session: Session, recorded: Recording) -> tuple[ParityFigures, ParityFigures]:
    """Compare an artifact with the original, before passengers and overlaps are handled.

    Returns:
        Figures for the same resized pixels, and for pictures that each side resizes on its own.
    """
    prompts, precision = artifact.manifest.prompts, artifact.manifest.precision
    ours = ArtifactSide(artifact, session, SCORE_THRESHOLD, full_mask)
    same_input, end_to_end = Tally(prompts, SCORE_THRESHOLD), Tally(prompts, SCORE_THRESHOLD)
    is_same_resize = True
    for picture in recorded:
        answer = ours.answer(picture.pixels, picture.size_hw)
        same_input.add(picture.answer, answer)
        end_to_end.add(picture.end_to_end, answer)
        is_same_resize &= picture.is_same_resize
    for picture in recorded:
        if (same_input.has_instances and end_to_end.has_instances) or picture.queries is None:
            break
        queries = ours.query_answer(picture.pixels).sampled(QUERY_STEP)
        same_input.add_queries(picture.queries, queries)
        if picture.end_to_end_queries is not None:
            end_to_end.add_queries(picture.end_to_end_queries, queries)
    provider = session.info.provider
    machine = machine_name(provider)
    limits = TOLERANCES[precision, "end_to_end"] if is_same_resize else _limits_of_another_resize(precision)
    return (
        same_input.figures(precision, "same_input", provider=provider, machine=machine),
        end_to_end.figures(precision, "end_to_end", provider=provider, machine=machine, tolerance=limits),
    )


def _limits_of_another_resize(precision: Precision) -> Tolerance:
    """The looser of two limits each: those of the precision, and `OTHER_RESIZE`."""
    usual, other = TOLERANCES[precision, "end_to_end"], OTHER_RESIZE
    return msgspec.structs.replace(
        usual,
        score=max(usual.score, other.score),
        threshold_band=max(usual.threshold_band, other.threshold_band),
        mask_iou=min(usual.mask_iou, other.mask_iou),
        mask_pixels=max(usual.mask_pixels, other.mask_pixels),
        mask_iou_mean=min(usual.mask_iou_mean, other.mask_iou_mean),
        mask_outliers=max(usual.mask_outliers, other.mask_outliers),
        prompt_error=max(usual.prompt_error, other.prompt_error),
    )
