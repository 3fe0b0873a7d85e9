"""Signs of life of a worker, and its look for the end of its run."""

from __future__ import annotations

import threading
import time
from typing import Literal

import msgspec

from job.errors import AnnotateError, RunConflictError
from job.options import WorkerOptions
from job.progress import Tally
from job.run import Run

BEAT_INTERVAL_S = 30.0
LOOK_INTERVAL_S = 10.0
"""A put is allowed only when the last look for `end.json` is less than 30 s old; this leaves room for a slow look."""

Activity = Literal["planning", "loading", "working", "left"]


class Beat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`workers/<pool>-<index>.json`, written again and again.

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
        self.beat = Beat(attempt=options.attempt)
        self._run = run
        self._key = run.key("workers", f"{options.pool}-{options.index:05d}.json")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        """Write the first beat and go on."""
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Stop; an end that this project foresees is an orderly one."""
        self._done.set()
        if isinstance(error, AnnotateError):
            self.beat.last_error = str(error)
        if error is None or isinstance(error, AnnotateError | KeyboardInterrupt):
            self._thread.join()
            self.beat.activity = "left"
            try:
                self._write()
            except AnnotateError:
                if error is None:
                    raise

    def tell(self, tally: Tally, images_per_s: float, error: str) -> None:
        """Note what the next beat says."""
        self.beat.annotated, self.beat.failed = tally.annotated, tally.failed
        self.beat.images_per_s = round(images_per_s, 3)
        self.beat.last_error = error or self.beat.last_error

    def _beat_on(self) -> None:
        while not self._done.wait(BEAT_INTERVAL_S):
            try:
                self._write()
            except AnnotateError:
                continue  # storage that fails here fails the workers' puts too, and is told there

    def _write(self) -> None:
        self.beat.number += 1
        self._run.store.put(self._key, msgspec.json.encode(self.beat))


class EndWatch:
    """Keeps a process whose run was superseded from putting objects.

    Time is counted by a clock that goes on while the machine sleeps.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._looked_s = 0.0

    def check(self) -> None:
        """Look again if the last look is too old.

        Raises:
            RunConflictError: The run was superseded.
        """
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self._looked_s and now_s - self._looked_s < LOOK_INTERVAL_S:
            return
        end = self._run.end()
        if end is not None and end.outcome == "superseded":
            raise RunConflictError(f"run {self._run.name} was superseded by run {end.superseded_by}: this worker stops")
        self._looked_s = now_s
