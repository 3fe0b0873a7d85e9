"""Signs of life of a worker, and its look for the end of its run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Literal

import msgspec

from job.errors import AnnotateError
from job.run.journal import ANNOTATED, FAILED, ResultRow
from job.run.options import WorkerOptions
from job.run.run import Run
from job.storage.store import StoredObject, first_writes

BEAT_INTERVAL_S = 30.0

_JOIN_S = 5.0
"""A beat that an outage holds up does not hold up the end."""

Activity = Literal["planning", "loading", "working", "left"]


class Beat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`workers/<pool>-<index>-<attempt>.json`, written again and again by one process.

    A process that takes another's place has a file of its own, so that neither hides the other.

    Attributes:
        attempt: Random name of the process.
        activity: What it is at; `left` after an orderly end.
        number: Counts up, so that every beat differs from the last.
        annotated: Images annotated by this process.
        failed: Inputs failed in this process.
        images_per_s: Since it began to work.
        last_error: Message of the last failed input, or of what ended the process.
    """

    attempt: str
    activity: Activity = "planning"
    number: int = 0
    annotated: int = 0
    failed: int = 0
    images_per_s: float = 0.0
    last_error: str = ""


class Heartbeat:
    """Writes the beat of this process every 30 s from a thread of its own, as long as the block lasts."""

    def __init__(self, run: Run, options: WorkerOptions) -> None:
        self.beat = Beat(attempt=options.process_id)
        self._run = run
        self._on_progress = options.watchdog.touch
        self._key = run.key("workers", f"{options.worker_id}-{options.process_id}.json")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        """Write the first beat and go on."""
        with first_writes(self._run.store):
            self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Stop; an end that this project foresees is an orderly one."""
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
        """Note a result for the next beat."""
        self.beat.annotated += row.result == ANNOTATED
        self.beat.failed += row.result == FAILED
        self.beat.images_per_s = round(images_per_s, 3)
        self.beat.last_error = row.reason or self.beat.last_error

    def _beat_on(self) -> None:
        while not self._done.wait(BEAT_INTERVAL_S):
            try:
                self._write()
            except AnnotateError:
                continue  # storage that fails here fails the workers' puts too, and is told there

    def _write(self) -> None:
        self.beat.number += 1
        self._run.store.put(self._key, msgspec.json.encode(self.beat))


def heartbeats(run: Run) -> Iterator[StoredObject]:
    """The heartbeat files of a run's workers."""
    return run.store.list(run.key("workers"))
