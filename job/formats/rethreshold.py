"""Other thresholds on stored instances: what a run with them would have stored, computed without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from job.errors import InputError
from job.formats.gva import Origin
from job.formats.instance_rows import ImageFacts, rows_of
from job.formats.instance_table import InstanceRow
from job.formats.rle import decode_rle
from job.postprocess.annotate import apply_rules
from job.postprocess.instances import Instance
from job.postprocess.masks import crop_mask
from job.rules.rules import Rules, exceeds


@dataclass(frozen=True)
class Rethresholded:
    """The rows of one image at other thresholds.

    Attributes:
        rows: As `job.formats.instance_rows.rows_of` gives them, without candidates.
        is_exact: Whether a run with these thresholds would have stored exactly these rows; else candidates that it
            needs were not stored.
    """

    rows: tuple[InstanceRow, ...]
    is_exact: bool


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a run, and other ones.

    Attributes:
        stored: Rules of the run.
        wanted: The same classes and rules with other thresholds (`Rules.with_min_scores`).
        candidates_min_score: `candidates_threshold` of the run.
    """

    stored: Rules
    wanted: Rules
    candidates_min_score: float


def rethreshold(rows: Sequence[InstanceRow], thresholds: Thresholds) -> Rethresholded:
    """Apply the rules of a run to the instances and candidates of one image again, at other thresholds.

    Args:
        rows: All rows of one image of a run that stored candidates, at least one.
        thresholds: Those of the run, and the wanted ones.

    Returns:
        Values, visible areas and parents are those of the new painting.

    Raises:
        InputError: A row has no prompt, score or mask, or a prompt that is not in the rules.
    """
    wanted = thresholds.wanted
    order = {prompt: number for number, prompt in enumerate(wanted.prompts)}
    by_prompt = wanted.by_prompt()
    found: list[Instance] = []
    for row in rows:
        if row.class_name is None:
            continue
        rule = by_prompt.get(row.prompt or "")
        if rule is None or row.score is None:
            raise InputError(f"instance table: {row.json}: a row has the prompt {row.prompt!r}, unlike the run")
        if exceeds(row.score, rule.min_score):
            found.append(_instance(row, rule.name))
    found.sort(key=lambda one: (order[one.prompt], one.query))
    first = rows[0]
    annotation = apply_rules(found, wanted, first.size_hw)
    origin = Origin(camera=first.camera, garage=first.garage, timestamp_ms=first.timestamp_ms)
    facts = ImageFacts(first.json, first.image, origin, first.orientation)
    return Rethresholded(tuple(rows_of(annotation, facts)), _is_exact(rows, thresholds))


def _instance(row: InstanceRow, class_name: str) -> Instance:
    if row.rle is None or row.box is None or row.score is None or row.query is None:
        raise InputError(f"instance table: {row.json}: a row has no mask, score or query")
    x0, y0, x1, y1 = row.box
    mask = crop_mask(decode_rle(row.rle.counts, row.rle.size)[y0:y1, x0:x1], (x0, y0), row.rle.size)
    if mask is None:
        raise InputError(f"instance table: {row.json}: the mask of a row is empty")
    return Instance(class_name, row.score, row.query, mask, row.prompt or "")


def _is_exact(rows: Sequence[InstanceRow], thresholds: Thresholds) -> bool:
    """Whether everything above the wanted thresholds is stored; a cut leaves out what is below the lowest candidate."""
    is_cut = any(row.cut for row in rows)
    lowest = float(np.float32(thresholds.candidates_min_score))
    if is_cut:
        lowest = max(lowest, min(row.score or 0.0 for row in rows if row.candidate is not None))
    before = {one.name: one.min_score for one in thresholds.stored.classes}
    return all(
        float(np.float32(one.min_score)) >= lowest or (one.min_score >= before[one.name] and not is_cut)
        for one in thresholds.wanted.classes
    )
