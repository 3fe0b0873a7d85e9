"""Instances at the scores that are asked for: by the rules of the run where it stored candidates, else by a filter."""

from __future__ import annotations

from dataclasses import dataclass

from job.convert.selection import SelectionOptions
from job.formats.instance_reader import AnnotatedImage
from job.formats.instance_table import InstanceRow
from job.formats.rethreshold import Thresholds, rethreshold


@dataclass(frozen=True)
class ThresholdedRows:
    """The instances of one image.

    Attributes:
        rows: Instances of the output, in its order; a filter by score may still remove some.
        dropped: Instances of the stored output that are not among them.
        is_filtered: Whether scores are asked for and the run stored no candidates, so that a filter must do.
        is_exact: Whether a run with these scores would have stored these rows.
    """

    rows: tuple[InstanceRow, ...]
    dropped: int = 0
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
    dropped = {(row.prompt, row.query) for row in stored} - {(row.prompt, row.query) for row in rows}
    return ThresholdedRows(rows, len(dropped), is_exact=found.is_exact)
