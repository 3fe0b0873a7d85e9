"""Check by reading that outputs are what a run has stored."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from job.errors import InputError, ObjectError, ObjectMissingError, UnreadableObjectError
from job.formats import gva
from job.formats.image_decode import read_header
from job.formats.instance_reader import InstanceParts
from job.formats.mask_npz import MaskFacts, mask_facts
from job.pipeline.memory import ByteBudget
from job.run.annotated_rows import AnnotatedRows, NewestRows
from job.run.journal import ResultRow
from job.run.spec import RunSpec
from job.storage.keys import mask_key, mask_name, printable
from job.storage.store import Store
from job.system.threads import iter_in_threads
from job.tools.audit import AuditCounts, Finding, Judged, judge_listings
from job.tools.audit_tables import table_problem

_THREADS = 8
_RASTER_BYTES = 256 << 20
"""Rasters that are painted at the same time; a larger one is painted alone."""
_BYTES_PER_PIXEL = 3
"""The painted raster, and one mask with a copy."""


@dataclass(frozen=True)
class Evidence:
    """What is known about an input.

    Attributes:
        judged: Its findings from the listings.
        recorded: Its rows in the newest run that annotated it; None when no run did.
        model_ids: Models whose annotation it should hold, the most likely first.
    """

    judged: Judged
    recorded: AnnotatedRows | None
    model_ids: tuple[str, ...]


def audit(source: Store, target: Store, spec: RunSpec, counts: AuditCounts, *, deep: bool) -> Iterator[Finding]:
    """Audit the whole input and output.

    Args:
        source: The whole input.
        target: The output.
        spec: Of its newest run.
        counts: Filled while the findings are consumed.
        deep: Also read every output.

    Yields:
        Findings, ascending by the key of their JSON.
    """
    for judged, findings in _judged(source, target, spec, deep):
        counts.inputs += judged.is_input
        counts.annotated += judged.is_input and not any(found.kind != "orphaned" for found in findings)
        for found in findings:
            counts.findings[found.kind] += 1
            yield found


def _judged(source: Store, target: Store, spec: RunSpec, deep: bool) -> Iterator[tuple[Judged, tuple[Finding, ...]]]:
    listed = judge_listings(source, target, spec)
    if not deep:
        yield from ((judged, judged.findings) for judged in listed)
        return
    reader = _PairReader(source, target, spec)
    newest = NewestRows(target)
    evidence = (_evidence(judged, newest) for judged in listed)
    yield from iter_in_threads(reader.check, evidence, _THREADS)


def _evidence(judged: Judged, newest: NewestRows) -> Evidence:
    recorded = newest.of(judged.group.json_key)
    runs = newest.runs if recorded is None else (recorded.run,)
    return Evidence(judged, recorded, tuple(dict.fromkeys(run.spec.model_id for run in runs)))


class _PairReader:
    def __init__(self, source: Store, target: Store, spec: RunSpec) -> None:
        self._source = source
        self._target = target
        self._is_copied = spec.image_mode == "copy"
        self._parts = InstanceParts()
        self._rasters = ByteBudget(_RASTER_BYTES)

    def check(self, evidence: Evidence) -> tuple[Judged, tuple[Finding, ...]]:
        """Findings from the listings, or if there are none, from reading."""
        judged = evidence.judged
        is_complete = judged.is_input and not any(found.kind != "orphaned" for found in judged.findings)
        if not is_complete:
            return judged, judged.findings
        try:
            finding = self._read(evidence)
        except (InputError, ObjectError, UnreadableObjectError) as exc:
            finding = Finding(kind="unreadable", key=printable(judged.group.json_key), detail=str(exc))
        return judged, (*judged.findings, finding) if finding else judged.findings

    def _read(self, evidence: Evidence) -> Finding | None:
        group, suffix = evidence.judged.group, evidence.judged.image_suffix
        key, name = group.json_key, printable(group.json_key)
        mask = mask_facts(self._target.read(mask_key(key)))
        ours = _our_entry(gva.parse(self._target.read(key)), evidence.model_ids)
        if suffix is not None:
            image = self._source.read(group.stem + suffix)
            if self._is_copied and self._target.read(group.stem + suffix) != image:
                return Finding(kind="image_differs", key=name, detail=f"{suffix} is not the input's")
            size_hw = read_header(image, sys.maxsize).size_hw
            if mask.size_hw != size_hw:
                return Finding(kind="mask_size", key=name, detail=f"mask of {mask.size_hw}, image of {size_hw} (H, W)")
        stray = mask.values - ours.labels.values - {0}
        if stray:
            return Finding(kind="mask_values", key=name, detail=f"values {sorted(stray)} are not in properties")
        recorded = evidence.recorded
        rows = () if recorded is None else recorded.rows
        problem = _mismatch(mask_name(key), mask, ours, rows)
        if problem or recorded is None:
            return Finding(kind="foreign", key=name, detail=problem) if problem else None
        problem = self._table_problem(recorded, mask, ours)
        return Finding(kind="instances", key=name, detail=problem) if problem else None

    def _table_problem(self, recorded: AnnotatedRows, mask: MaskFacts, ours: _OurEntry) -> str | None:
        """Why the rows of the instance table are not those of the stored mask."""
        result = next(row for row in recorded.rows if _is_of(row, mask, ours))
        if not result.instances:
            return None
        try:
            rows = self._parts.rows_of(recorded.run, recorded.shard, result)
            height, width = mask.size_hw
            with self._rasters.hold(_BYTES_PER_PIXEL * height * width):
                return table_problem(rows, mask, result.scores)
        except (InputError, ObjectMissingError) as exc:
            return str(exc)


@dataclass(frozen=True)
class _OurEntry:
    labels: gva.Labels
    path: object


def _our_entry(document: gva.Document, model_ids: Sequence[str]) -> _OurEntry:
    """The annotation of the first of these models.

    Raises:
        InputError: There is none.
    """
    for model_id in model_ids:
        labels = gva.labels_of(document, model_id)
        if labels is not None:
            return _OurEntry(labels, _path_of(document, model_id))
    raise InputError(f"JSON: it has no annotation of {' or '.join(model_ids)} with properties and confidences")


def _path_of(document: gva.Document, model_id: str) -> object:
    for entry in document.fields["annotation"]["segmentation"]:
        annotator = entry.get("annotator") if isinstance(entry, dict) else None
        if isinstance(annotator, dict) and annotator.get("model_id") == model_id:
            return entry["labels"].get("path")
    return None


def _is_of(row: ResultRow, mask: MaskFacts, ours: _OurEntry) -> bool:
    return (row.mask_sha256, row.scores) == (mask.sha256, ours.labels.confidences)


def _mismatch(npz_name: str, mask: MaskFacts, ours: _OurEntry, rows: Sequence[ResultRow]) -> str | None:
    """Why mask and scores are not those of one row; a key without rows is judged by its files alone."""
    if ours.path != npz_name:
        return f"the JSON belongs to {ours.path}"
    if not rows or any(_is_of(row, mask, ours) for row in rows):
        return None
    which = "annotation" if any(row.mask_sha256 == mask.sha256 for row in rows) else "mask"
    workers = ", ".join(sorted({row.worker for row in rows}))
    return f"the {which} is not what worker {workers} has stored"
