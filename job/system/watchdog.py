"""A watchdog: the time since the last progress of this process."""

from __future__ import annotations

import time
from collections.abc import Callable

OnProgress = Callable[[], None]
"""Called on every progress."""


class Watchdog:
    """Time of the last progress: a listed page, a fetched part of the model, a finished stage of an image."""

    def __init__(self) -> None:
        self._touched_s = time.monotonic()

    def touch(self) -> None:
        """Record progress; any thread may call it."""
        self._touched_s = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._touched_s
