"""Heartbeats of worker processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Literal

import msgspec

from job.errors import AnnotateError
from job.run.decoding import SAME_VERSION, decoding
from job.run.journal import ANNOTATED, FAILED, ResultRow
from job.run.options import WorkerOptions
from job.run.run import Run
from job.storage.store import StoredObject, first_writes, read_if_there

BEAT_INTERVAL_S = 30.0

_JOIN_S = 5.0
"""Maximum time that a blocked heartbeat delays the exit."""

Activity = Literal["planning", "loading", "working", "left"]


class Beat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`workers/<pool>-<index>-<attempt>.json`, rewritten by one process.

    Every process has its own file, so a resumed process cannot overwrite its replacement's heartbeat.

    Attributes:
        attempt: Random name of the process.
        activity: What it does; `left` after an orderly exit.
        number: Increases, so that every beat differs from the last.
        annotated: Images annotated by this process.
        failed: Inputs failed in this process.
        images_per_s: Rate since it started to work.
        last_error: Message of the last failed input, or of the error that ended the process.
    """

    attempt: str
    activity: Activity = "planning"
    number: int = 0
    annotated: int = 0
    failed: int = 0
    images_per_s: float = 0.0
    last_error: str = ""


_BEAT = msgspec.json.Decoder(Beat)


class Heartbeat:
    """Writes the heartbeat of this process every 30 s from its own thread during a block."""

    def __init__(self, run: Run, options: WorkerOptions) -> None:
        self.beat = Beat(attempt=options.process_id)
        self._run = run
        self._on_progress = options.watchdog.touch
        self._key = run.key("workers", f"{options.worker_id}-{options.process_id}.json")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_done, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        """Write the first beat and start the thread."""
        with first_writes(self._run.store):
            self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Stop; an exit without an unexpected error is orderly."""
        self._on_progress()
        self._done.set()
        if isinstance(error, AnnotateError):
            self.beat.last_error = str(error)
        if error is None or isinstance(error, AnnotateError | KeyboardInterrupt):
            self._thread.join(_JOIN_S)
            self.beat.activity = "left"
            try:
                self._write()
            except AnnotateError:
                if error is None:
                    raise

    def add(self, row: ResultRow, images_per_s: float) -> None:
        """Add a result to the next beat."""
        self.beat.annotated += row.result == ANNOTATED
        self.beat.failed += row.result == FAILED
        self.beat.images_per_s = round(images_per_s, 3)
        self.beat.last_error = row.reason or self.beat.last_error

    def _beat_until_done(self) -> None:
        while not self._done.wait(BEAT_INTERVAL_S):
            try:
                self._write()
            except AnnotateError:
                continue  # puts of the worker fail too, and report it

    def _write(self) -> None:
        self.beat.number += 1
        self._run.store.put(self._key, msgspec.json.encode(self.beat))


def heartbeats(run: Run) -> Iterator[StoredObject]:
    """The heartbeat files of a run's workers."""
    return run.store.list(run.key("workers"))


def read_beat(run: Run, key: str) -> Beat | None:
    """Read a heartbeat file; None if it was removed meanwhile.

    Raises:
        RunConflictError: An incompatible version wrote it.
    """
    raw = read_if_there(run.store, key)
    if raw is None:
        return None
    with decoding(f"{run.store.url}/{key}", SAME_VERSION):
        return _BEAT.decode(raw)
