"""Instances at the scores that are asked for: by the rules of the run where it stored candidates, else by a filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from job.convert.selection import SelectionOptions
from job.formats.instance_reader import AnnotatedImage
from job.formats.instance_table import InstanceRow
from job.formats.rethreshold import Thresholds, rethreshold
from job.rules.rules import Rules, exceeds


@dataclass(frozen=True)
class ThresholdedRows:
    """The instances of one image.

    Attributes:
        rows: Instances of the output, in its order; a filter by score may still remove some.
        dropped: Number of instances of the stored output that are not among them, by reason: `min_score` or `overlap`.
        is_filtered: Whether thresholds are given and the run stored no candidates, so that a filter replaces the rules.
        is_exact: Whether a run with these scores would have stored these rows.
    """

    rows: tuple[InstanceRow, ...]
    dropped: Counter[str] = field(default_factory=Counter)
    is_filtered: bool = False
    is_exact: bool = True


def rows_at_thresholds(image: AnnotatedImage, options: SelectionOptions) -> ThresholdedRows:
    """The instances of an image at the scores of `options`.

    Raises:
        InputError: A row is damaged.
    """
    stored = tuple(row for row in image.rows if row.class_name is not None and row.candidate is None)
    if not options.has_thresholds:
        return ThresholdedRows(stored)
    spec = image.spec
    if spec is None or spec.candidates_threshold is None:
        return ThresholdedRows(stored, is_filtered=True)
    wanted = spec.rules.with_min_scores(options.min_score, options.min_scores)
    found = rethreshold(image.rows, Thresholds(spec.rules, wanted, spec.candidates_threshold))
    rows = tuple(row for row in found.rows if row.class_name is not None)
    return ThresholdedRows(rows, _dropped(stored, rows, wanted), is_exact=found.is_exact)


def _dropped(stored: Iterable[InstanceRow], kept: Iterable[InstanceRow], wanted: Rules) -> Counter[str]:
    """Stored instances that are not kept; those whose scores suffice overlap one that is kept now."""
    present = {(row.prompt, row.query) for row in kept}
    rules = wanted.by_prompt()
    return Counter(
        "overlap" if exceeds(row.score or 0.0, rules[row.prompt or ""].min_score) else "min_score"
        for row in stored
        if (row.prompt, row.query) not in present
    )
