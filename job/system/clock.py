"""The clocks that a run uses; tests replace them to skip waits."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The clocks of one process; the clocks of two processes may differ."""

    def monotonic_s(self) -> float:
        """Seconds since a fixed moment, without the time that the machine sleeps."""
        ...

    def boot_s(self) -> float:
        """Seconds since a fixed moment, with the time that the machine sleeps or the process is stopped."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def boot_s(self) -> float:
        """See `Clock`; CLOCK_BOOTTIME, because CLOCK_MONOTONIC stops during a suspend."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
