"""The check for the end of a run before objects are written."""

from __future__ import annotations

import threading

from job.errors import RunOverError
from job.run.run import Run
from job.system.clock import SYSTEM_CLOCK, Clock

CHECK_INTERVAL_S = 28.0
"""A put starts only if the last check for `end.json` began less than 30 s ago."""


class EndWatch:
    """Prevents a process from writing objects after the end of its run.

    It uses a clock that advances while the machine sleeps or the process is stopped.
    """

    def __init__(self, run: Run, clock: Clock = SYSTEM_CLOCK) -> None:
        self._run = run
        self._clock = clock
        self._lock = threading.Lock()
        self._checked_s: float | None = None

    def check(self) -> None:
        """Check for the end of the run if the last check is too old.

        Raises:
            RunConflictError: The run was superseded.
            RunOverError: It has ended otherwise: other processes have completed it.
        """
        with self._lock:
            now_s = self._clock.boot_s()
            if self._checked_s is not None and now_s - self._checked_s < CHECK_INTERVAL_S:
                return
            end = self._run.end()
            if end is not None:
                end.check_not_superseded(self._run.name)
                raise RunOverError(f"run {self._run.name} has ended; other processes have completed it")
            self._checked_s = now_s
