"""The time that a process has to leave after SIGTERM: shorter than the grace period of a pod."""

from __future__ import annotations

import logging
import os
import threading

from job.errors import InterruptedRunError
from job.system.clock import SYSTEM_CLOCK, Clock

logger = logging.getLogger(__name__)

LEAVE_S = 35.0
"""Requests to a store are not retried for longer than this after SIGTERM."""
EXIT_S = 45.0
"""A process that has not left then exits without its last writes, as if it were killed; its work is done again."""


class Leaving:
    """Whether this process is leaving, and until when; any thread may ask."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._deadline_s: float | None = None
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Start to leave; only the first call has an effect."""
        if self._deadline_s is None:
            self._deadline_s = self._clock.monotonic_s() + LEAVE_S
            self._timer = threading.Timer(EXIT_S, _exit)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Stay after all: the work that was stopped has ended in order."""
        if self._timer is not None:
            self._timer.cancel()
        self._deadline_s = self._timer = None

    @property
    def has_begun(self) -> bool:
        """Whether this process is leaving."""
        return self._deadline_s is not None

    @property
    def is_overdue(self) -> bool:
        """Whether requests are no longer retried."""
        return self._deadline_s is not None and self._clock.monotonic_s() > self._deadline_s


LEAVING = Leaving()
"""Of this process."""


def _exit() -> None:
    logger.error("Not left %.0f s after SIGTERM: exiting; rerun the same command to resume", EXIT_S)
    os._exit(InterruptedRunError.exit_code)
