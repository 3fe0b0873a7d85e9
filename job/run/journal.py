"""The journal: result rows for resume, overrides, statistics, the failure table and provenance.

`journal/<shard>/<attempt>-<n>.jsonl` is a part; a part is written once. The first part of a process in a shard has its
start row, the last one its leave row. Between them are result rows of images whose objects are stored, and intent rows
of images that may crash the worker. Each line is one row; the field `row` is its type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from job.run.decoding import decoding
from job.run.instance_parts import pack_part, part_key
from job.run.run import Run
from job.storage.store import StoredObject


class StartRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="start"):
    """A process opens the shard."""

    attempt: str


class LeaveRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="leave"):
    """A process closes the shard in order, complete or not. A start row without it means a killed worker."""

    attempt: str


class IntentRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="intent"):
    """This image is processed alone next, because the shard has crashed workers before."""

    json: str
    attempt: str


class ResultRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="result", omit_defaults=True):
    """The result of one image.

    Attributes:
        json: Key of its JSON.
        result: `annotated`: its objects are stored. `failed`: it has none. `reviewed`: kept, a person reviewed it.
            `skipped`: a listed key whose outputs existed.
        reason: Reason of a failure.
        scores: Scores of the instances in the output by class, 3 decimals, in their order.
        dropped: Instances left out, by reason: `empty`, `overlap`, `beyond_255`.
        hidden: Instances that smaller ones cover completely.
        seconds: Seconds spent by stage.
        mask_sha256: Digest of the mask's pixels (row by row, without the NPZ around it).
        worker: Attempt that made it.
        artifact: Digest of the artifact's manifest.
        precision: Of the artifact.
        provider: Execution provider and its threads.
        runtime: Name and version of the library that ran the model; rows of earlier versions lack it.
        self_check: Digest of the self-check that the worker passed; empty with `--self_check off`.
        instances: Part of the instance table that has its rows (`<attempt>-<n>`), or empty.
    """

    json: str
    result: str
    reason: str = ""
    scores: dict[str, list[float]] = {}
    dropped: dict[str, int] = {}
    hidden: int = 0
    seconds: dict[str, float] = {}
    mask_sha256: str = ""
    worker: str = ""
    artifact: str = ""
    precision: str = ""
    provider: str = ""
    runtime: str = ""
    self_check: str = ""
    instances: str = ""


Row = StartRow | LeaveRow | IntentRow | ResultRow
_ROW = msgspec.json.Decoder(Row)

ANNOTATED, FAILED, REVIEWED, SKIPPED = "annotated", "failed", "reviewed", "skipped"


@dataclass
class ShardHistory:
    """The journal of a shard as read so far.

    Attributes:
        results: The valid row of each image: stored has priority over failed, else the first.
        parts: Keys of the parts read.
        started: Attempts that have opened the shard.
        left: Attempts that have closed it in order.
        intents: Intent rows with the store's time of their part.
    """

    results: dict[str, ResultRow] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    intents: list[tuple[IntentRow, float]] = field(default_factory=list)

    @property
    def killed_process_ids(self) -> set[str]:
        """Processes without a leave row: killed, or still running."""
        return self.started - self.left

    def open_intents(self, json: str) -> list[float]:
        """Times, by the store, of the intent rows of killed processes for an image; none if it has a result."""
        if json in self.results:
            return []
        return [s for row, s in self.intents if row.json == json and row.attempt in self.killed_process_ids]

    def read(self, run: Run, part: StoredObject) -> list[ResultRow]:
        """Read a part; returns its result rows."""
        self.parts.add(part.key)
        rows = []
        for row in decode_rows(run, part.key):
            if isinstance(row, StartRow):
                self.started.add(row.attempt)
            elif isinstance(row, LeaveRow):
                self.left.add(row.attempt)
            elif isinstance(row, IntentRow):
                self.intents.append((row, part.modified_s))
            else:
                rows.append(row)
                keep_better(self.results, row)
        return rows


def read_history(run: Run, shard: str) -> ShardHistory:
    """Read every part of a shard's journal.

    Raises:
        StorageError: The store is unreachable.
        RunConflictError: An incompatible version wrote a part.
    """
    history = ShardHistory()
    for part in run.store.list(run.key("journal", shard)):
        history.read(run, part)
    return history


def keep_better(results: dict[str, ResultRow], row: ResultRow) -> None:
    """Add a row unless a better one exists: stored has priority over failed, else the first."""
    known = results.get(row.json)
    if known is None or (known.result == FAILED and row.result != FAILED):
        results[row.json] = row


class ShardJournal:
    """Writes the parts of this process of a shard's journal and, before each, the part of the instance table.

    It buffers rows and writes them as one part.

    Attributes:
        instance_bytes: Bytes of buffered rows of the instance table.
    """

    def __init__(self, run: Run, shard: str, process_id: str) -> None:
        self._run = run
        self._shard = shard
        self._process_id = process_id
        self._parts = 0
        self._rows: list[Row] = []
        self._instance_lines: dict[str, bytes] = {}
        self.instance_bytes = 0

    def start(self) -> None:
        """Write the start row."""
        self._rows.append(StartRow(attempt=self._process_id))
        self.write()

    def intend(self, json: str) -> None:
        """Write the intent row of the next image."""
        self._rows.append(IntentRow(json=json, attempt=self._process_id))
        self.write()

    def add(self, row: ResultRow, instance_lines: bytes = b"") -> None:
        """Buffer a result row and the rows of its instances; `write` stores them."""
        self._rows.append(row)
        if instance_lines:
            self._instance_lines[row.json] = instance_lines
            self.instance_bytes += len(instance_lines)

    def leave(self) -> None:
        """Write the buffered rows and the leave row."""
        self._rows.append(LeaveRow(attempt=self._process_id))
        self.write()

    def read_others(self, history: ShardHistory) -> list[ResultRow]:
        """Read new parts of other attempts into the history; returns their result rows."""
        own = self._run.key("journal", self._shard, f"{self._process_id}-")
        rows = []
        for part in self._run.store.list(self._run.key("journal", self._shard)):
            if part.key not in history.parts and not part.key.startswith(own):
                rows += history.read(self._run, part)
        return rows

    def write(self) -> None:
        """Write the buffered rows as one part; do nothing without rows."""
        if not self._rows:
            return
        part = f"{self._process_id}-{self._parts}"
        self._parts += 1  # before the puts: one may be stored although its response is lost, and a part never changes
        store, lines = self._run.store, self._instance_lines
        if lines:
            store.put(part_key(self._run, self._shard, part), pack_part(lines.values()))
        store.flush()
        rows = [
            msgspec.structs.replace(row, instances=part) if isinstance(row, ResultRow) and row.json in lines else row
            for row in self._rows
        ]
        store.put(self._run.key("journal", self._shard, f"{part}.jsonl"), encode_lines(rows))
        self._rows, self._instance_lines, self.instance_bytes = [], {}, 0


def encode_lines(rows: Iterable[msgspec.Struct]) -> bytes:
    """One JSON object a line."""
    return msgspec.json.Encoder().encode_lines(rows)


def read_history_rows(run: Run, shard: str) -> Iterator[ResultRow]:
    """Every result row of a shard's journal, of all attempts."""
    for part in run.store.list(run.key("journal", shard)):
        yield from (row for row in decode_rows(run, part.key) if isinstance(row, ResultRow))


def decode_rows(run: Run, key: str) -> list[Row]:
    """The rows of a part.

    Raises:
        RunConflictError: An incompatible version wrote it.
    """
    with decoding(f"{run.store.url}/{key}"):
        return _ROW.decode_lines(run.store.read(key))
