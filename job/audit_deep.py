"""Whether outputs are what a run has stored, told by reading them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job import gva
from job.audit import AuditCounts, Finding, Judged, is_input, judge_listings
from job.concurrent import iter_in_threads
from job.errors import InputError, ObjectError
from job.journal import ANNOTATED, ResultRow, read_history_rows
from job.keys import mask_key, ordered
from job.npz import MASK_NAME
from job.pictures import read_header
from job.run import Run, RunSpec, runs_of
from job.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

_THREADS = 8


@dataclass(frozen=True)
class Evidence:
    """What is known of an input: what the listings say, and its rows in the newest run that annotated it."""

    judged: Judged
    rows: tuple[ResultRow, ...]


def audit(source: Store, target: Store, spec: RunSpec, counts: AuditCounts, *, deep: bool) -> Iterator[Finding]:
    """Look at everything.

    Args:
        source: The whole input.
        target: The output.
        spec: Of its newest run.
        counts: Filled while the findings are consumed.
        deep: Read every output instead of its line in the listing only.

    Yields:
        Findings, ascending by the key of their JSON.
    """
    for judged, findings in _judged(source, target, spec, deep):
        counts.inputs += is_input(judged.family)
        counts.annotated += is_input(judged.family) and not any(found.kind != "orphaned" for found in findings)
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
    evidence = (Evidence(judged, rows.of(judged.family.json_key)) for judged in listed)
    yield from iter_in_threads(reader.look, evidence, _THREADS)


class _NewestRows:
    """Annotated rows by key, asked for in ascending order; one shard of each run is in memory."""

    def __init__(self, target: Store) -> None:
        self._cursors = [_RunRows(run) for run in runs_of(target)]

    def of(self, key: str) -> tuple[ResultRow, ...]:
        """Rows of the newest run that has annotated it; none when no run tells."""
        return next((rows for cursor in self._cursors if (rows := cursor.of(key))), ())


class _RunRows:
    """The annotated rows of one run, shard by shard; shards hold ascending ranges of keys."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shards = iter(run.store.folders(run.key("journal")))
        self._rows: dict[str, list[ResultRow]] | None = {}
        self._last = b""

    def of(self, key: str) -> tuple[ResultRow, ...]:
        while self._rows is not None and self._last < ordered(key):
            self._load_next()
        return tuple((self._rows or {}).get(key, ()))

    def _load_next(self) -> None:
        shard = next(self._shards, None)
        if shard is None:
            self._rows = None
            return
        rows: dict[str, list[ResultRow]] = {}
        for row in read_history_rows(self._run, shard):
            self._last = max(self._last, ordered(row.json))
            if row.result == ANNOTATED:
                rows.setdefault(row.json, []).append(row)
        self._rows = rows


class _PairReader:
    def __init__(self, source: Store, target: Store, spec: RunSpec) -> None:
        self._source = source
        self._target = target
        self._spec = spec

    def look(self, evidence: Evidence) -> tuple[Judged, tuple[Finding, ...]]:
        """Findings of the listings, or where these have none, those of reading."""
        judged = evidence.judged
        is_whole = is_input(judged.family) and not any(found.kind != "orphaned" for found in judged.findings)
        if not is_whole:
            return judged, judged.findings
        key = judged.family.json_key
        try:
            finding = self._read(key, judged, evidence.rows)
        except (_UnreadableError, InputError, ObjectError) as exc:
            finding = Finding(kind="unreadable", key=key, detail=str(exc))
        return judged, (*judged.findings, finding) if finding else judged.findings

    def _read(self, key: str, judged: Judged, rows: tuple[ResultRow, ...]) -> Finding | None:
        mask = _read_mask(self._target.read(mask_key(key)))
        labels = _our_labels(gva.parse(self._target.read(key)), self._spec.model_id)
        image_key = judged.family.stem + str(judged.image_suffix)
        image = self._source.read(image_key)
        if self._spec.image_mode == "copy" and self._target.read(image_key) != image:
            return Finding(kind="image_differs", key=key, detail=f"{judged.image_suffix} is not the input's")
        size_hw = read_header(image, self._spec.max_image_pixels).size_hw
        if mask.shape != size_hw:
            return Finding(kind="mask_size", key=key, detail=f"mask of {mask.shape}, image of {size_hw} (H, W)")
        stray = {int(value) for value in np.unique(mask)} - labels.values - {0}
        if stray:
            return Finding(kind="mask_values", key=key, detail=f"values {sorted(stray)} are not in properties")
        return _foreign(key, mask, labels.confidences, rows)


def _foreign(
    key: str, mask: NDArray[np.uint8], confidences: dict[str, list[float]], rows: tuple[ResultRow, ...]
) -> Finding | None:
    """Mask and scores have to be those of one row; a key without rows is judged by its files alone."""
    digest = hashlib.sha256(np.ascontiguousarray(mask).data).hexdigest()
    if not rows or any((row.mask_sha256, row.scores) == (digest, confidences) for row in rows):
        return None
    which = "mask" if not any(row.mask_sha256 == digest for row in rows) else "annotation"
    workers = ", ".join(sorted({row.worker for row in rows}))
    return Finding(kind="foreign", key=key, detail=f"the {which} is not what worker {workers} has stored")


class _UnreadableError(Exception):
    """A file of the output cannot be what the worker has written."""


def _read_mask(raw: bytes) -> NDArray[np.uint8]:
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            mask = arrays[MASK_NAME]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as exc:
        raise _UnreadableError(f"NPZ: {exc}") from exc
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise _UnreadableError(f"NPZ: mask is {mask.dtype} with {mask.ndim} axes, not uint8 with 2")
    loaded: NDArray[np.uint8] = mask
    return loaded


def _our_labels(document: gva.Document, model_id: str) -> gva.Labels:
    labels = gva.labels_of(document, model_id)
    if labels is None:
        raise _UnreadableError(f"JSON: no annotation of {model_id} with properties and confidences")
    return labels
