"""What was done, row by row: resume, done-list of an override, statistics, failure table and provenance in one.

`journal/<shard>/<attempt>-<n>.jsonl`: parts, each written once and never again. The first part of an attempt on
a shard holds its start row, the last one its leave row; between them lie result rows of images whose objects
are stored, and intent rows of images that may end the worker. A line is one row, told apart by `row`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from job.errors import RunConflictError
from job.run.run import Run
from job.storage.store import StoredObject


class StartRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="start"):
    """An attempt takes up the shard."""

    attempt: str


class LeaveRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="leave"):
    """An attempt leaves the shard in order, complete or not. A start without it is a worker that was killed."""

    attempt: str


class IntentRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="intent"):
    """This image is taken up alone, because the shard has ended workers before."""

    json: str
    attempt: str


class ResultRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="result", omit_defaults=True):
    """What became of one image.

    Attributes:
        json: Key of its JSON.
        result: `annotated`: its objects are stored. `failed`: it has none. `reviewed`: left as a person reviewed it.
            `skipped`: a listed key whose outputs were there already.
        reason: Why it failed.
        scores: Scores of the instances in the output by class, 3 decimals, in their order.
        dropped: Instances left out, by why: `empty`, `overlap`, `beyond_255`.
        hidden: Instances whose every pixel a smaller one covers.
        seconds: Seconds spent by stage.
        mask_sha256: Digest of the mask's pixels (row by row, without the NPZ around it).
        worker: Attempt that did it.
        artifact: Digest of the artifact's manifest.
        precision: Of the artifact.
        provider: Execution provider and its threads.
        self_check: Digest of the self-check that the worker passed; empty with `--self_check off`.
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
    self_check: str = ""


Row = StartRow | LeaveRow | IntentRow | ResultRow

ANNOTATED, FAILED, REVIEWED, SKIPPED = "annotated", "failed", "reviewed", "skipped"


@dataclass
class ShardHistory:
    """What attempts did with a shard, part by part.

    Attributes:
        results: The row that counts of every image that has one: stored beats failed, else the first.
        parts: Keys of the parts that were read.
        started: Attempts that have taken it up.
        left: Attempts that have left in order.
        intents: Intent rows with the store's time of their part.
    """

    results: dict[str, ResultRow] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    intents: list[tuple[IntentRow, float]] = field(default_factory=list)

    @property
    def killed_attempts(self) -> set[str]:
        """Attempts that started and did not leave; one that is at work now looks the same."""
        return self.started - self.left

    def open_intents(self, json: str) -> list[float]:
        """Store's times of the killed attempts' intent rows for an image; none when it has a result."""
        if json in self.results:
            return []
        return [s for row, s in self.intents if row.json == json and row.attempt in self.killed_attempts]

    def read(self, run: Run, part: StoredObject) -> list[ResultRow]:
        """Take in a part; returns its result rows."""
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
        StorageError: The store is out of reach.
        RunConflictError: A part is not of this version.
    """
    history = ShardHistory()
    for part in run.store.list(run.key("journal", shard)):
        history.read(run, part)
    return history


def keep_better(results: dict[str, ResultRow], row: ResultRow) -> None:
    """Note a row unless a better one is known: stored beats failed, else the first counts."""
    known = results.get(row.json)
    if known is None or (known.result == FAILED and row.result != FAILED):
        results[row.json] = row


class ShardJournal:
    """This attempt's part of a shard's journal: rows are gathered, then written as one part."""

    def __init__(self, run: Run, shard: str, attempt: str) -> None:
        self._run = run
        self._shard = shard
        self._attempt = attempt
        self._parts = 0
        self._rows: list[Row] = []

    def start(self) -> None:
        """Say that this attempt is at work on the shard; stored before it returns."""
        self._rows.append(StartRow(attempt=self._attempt))
        self.write()

    def intend(self, json: str) -> None:
        """Say that this image comes next; stored before it returns."""
        self._rows.append(IntentRow(json=json, attempt=self._attempt))
        self.write()

    def add(self, row: ResultRow) -> None:
        """Gather a result; call `write` to store it."""
        self._rows.append(row)

    def leave(self) -> None:
        """Store what is gathered and say that this attempt leaves in order."""
        self._rows.append(LeaveRow(attempt=self._attempt))
        self.write()

    def read_others(self, history: ShardHistory) -> list[ResultRow]:
        """Take parts of other attempts that are new into the history; returns their result rows."""
        own = self._run.key("journal", self._shard, f"{self._attempt}-")
        rows = []
        for part in self._run.store.list(self._run.key("journal", self._shard)):
            if part.key not in history.parts and not part.key.startswith(own):
                rows += history.read(self._run, part)
        return rows

    def write(self) -> None:
        """Store the gathered rows as one part; nothing when there are none."""
        if not self._rows:
            return
        key = self._run.key("journal", self._shard, f"{self._attempt}-{self._parts}.jsonl")
        self._parts += 1  # before the put: one whose answer is lost may be there, and a part never changes
        self._run.store.flush()
        self._run.store.put(key, encode_lines(self._rows))
        self._rows = []


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
        RunConflictError: It is not of this version.
    """
    try:
        return msgspec.json.Decoder(Row).decode_lines(run.store.read(key))
    except msgspec.DecodeError as exc:
        raise RunConflictError(
            f"{run.store.url}/{key} is not of this version: {exc}. Choose another --run name"
        ) from exc
