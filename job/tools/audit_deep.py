"""Check by reading that outputs are what a run has stored."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from job.errors import InputError, ObjectError, UnreadableObjectError
from job.formats import gva
from job.formats.image_decode import read_header
from job.formats.mask_npz import MaskFacts, mask_facts
from job.run.history import runs_of
from job.run.journal import ANNOTATED, ResultRow, read_history_rows
from job.run.run import Run
from job.run.spec import RunSpec
from job.storage.keys import mask_key, ordered, printable
from job.storage.store import Store
from job.system.threads import iter_in_threads
from job.tools.audit import AuditCounts, Finding, Judged, judge_listings

_THREADS = 8


@dataclass(frozen=True)
class Evidence:
    """What is known about an input.

    Attributes:
        judged: Its findings from the listings.
        rows: Its rows in the newest run that annotated it; empty when no run did.
        model_ids: Models whose annotation it should hold, the most likely first.
    """

    judged: Judged
    rows: tuple[ResultRow, ...]
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
    rows = _NewestRows(target)
    evidence = (rows.evidence(judged) for judged in listed)
    yield from iter_in_threads(reader.check, evidence, _THREADS)


class _NewestRows:
    """Annotated rows by key, requested in ascending order; one shard of each run is in memory."""

    def __init__(self, target: Store) -> None:
        self._cursors = [_RunRows(run) for run in runs_of(target)]
        self._model_ids = tuple(dict.fromkeys(cursor.model_id for cursor in self._cursors))

    def evidence(self, judged: Judged) -> Evidence:
        """Rows of an input in the newest run that annotated it."""
        for cursor in self._cursors:
            rows = cursor.of(judged.group.json_key)
            if rows:
                return Evidence(judged, rows, (cursor.model_id,))
        return Evidence(judged, (), self._model_ids)


class _RunRows:
    """The annotated rows of one run, shard by shard; shards hold ascending ranges of keys."""

    def __init__(self, run: Run) -> None:
        self.model_id = run.spec.model_id
        self._run = run
        self._shards = iter(run.store.list_dirs(run.key("journal")))
        self._rows: dict[str, list[ResultRow]] | None = {}
        self._last = b""

    def of(self, key: str) -> tuple[ResultRow, ...]:
        while self._rows is not None and self._last < ordered(key):
            self._load_next()
        return tuple((self._rows or {}).get(key, ()))

    def _load_next(self) -> None:
        """Only annotated rows count: a failed row may spell its key differently (`printable`), out of order."""
        shard = next(self._shards, None)
        if shard is None:
            self._rows = None
            return
        rows: dict[str, list[ResultRow]] = {}
        for row in read_history_rows(self._run, shard):
            if row.result == ANNOTATED:
                rows.setdefault(row.json, []).append(row)
        self._rows = rows
        self._last = max(map(ordered, rows), default=self._last)


class _PairReader:
    def __init__(self, source: Store, target: Store, spec: RunSpec) -> None:
        self._source = source
        self._target = target
        self._is_copied = spec.image_mode == "copy"

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
        problem = _mismatch(mask_key(key).rpartition("/")[2], mask, ours, evidence.rows)
        return Finding(kind="foreign", key=name, detail=problem) if problem else None


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


def _mismatch(npz_name: str, mask: MaskFacts, ours: _OurEntry, rows: Sequence[ResultRow]) -> str | None:
    """Why mask and scores are not those of one row; a key without rows is judged by its files alone."""
    if ours.path != npz_name:
        return f"the JSON belongs to {ours.path}"
    if not rows or any((row.mask_sha256, row.scores) == (mask.sha256, ours.labels.confidences) for row in rows):
        return None
    which = "annotation" if any(row.mask_sha256 == mask.sha256 for row in rows) else "mask"
    workers = ", ".join(sorted({row.worker for row in rows}))
    return f"the {which} is not what worker {workers} has stored"
