"""Time as the rules of a run use it, so that tests can let hours pass at once."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What a process knows of time; no two processes' clocks need to agree."""

    def monotonic_s(self) -> float:
        """Seconds since some moment, the time asleep not counted."""
        ...

    def boot_s(self) -> float:
        """Seconds since some moment, counted on while the machine sleeps or the process is stopped."""
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
        """See `Clock`; CLOCK_BOOTTIME, where CLOCK_MONOTONIC stands still during a suspend."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
