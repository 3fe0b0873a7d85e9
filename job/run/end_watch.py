"""The check for the end of a run before objects are written."""

from __future__ import annotations

import threading

from job.errors import RunOverError
from job.run.run import Run
from job.system.clock import SYSTEM_CLOCK, Clock

LOOK_INTERVAL_S = 28.0
"""A put is tried only when the last look for `end.json` was begun less than 30 s ago."""


class EndWatch:
    """Keeps a process whose run is over from putting objects.

    Time is counted by a clock that goes on while the machine sleeps or the process is stopped.
    """

    def __init__(self, run: Run, clock: Clock = SYSTEM_CLOCK) -> None:
        self._run = run
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_s: float | None = None

    def check(self) -> None:
        """Look again if the last look is too old.

        Raises:
            RunConflictError: The run was superseded.
            RunOverError: It has ended otherwise: others have done what was left.
        """
        with self._lock:
            now_s = self._clock.boot_s()
            if self._looked_s is not None and now_s - self._looked_s < LOOK_INTERVAL_S:
                return
            end = self._run.end()
            if end is not None:
                end.check_not_superseded(self._run.name)
                raise RunOverError(f"run {self._run.name} has ended while this worker was at it")
            self._looked_s = now_s
