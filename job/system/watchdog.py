"""A watchdog: the time since the last progress of this process."""

from __future__ import annotations

import time
from collections.abc import Callable

OnProgress = Callable[[], None]
"""Tells that something has moved."""


class Watchdog:
    """When something has moved last: a page listed, a part of the model fetched, a stage of an image done."""

    def __init__(self) -> None:
        self._touched_s = time.monotonic()

    def touch(self) -> None:
        """Something has moved; from any thread."""
        self._touched_s = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._touched_s
