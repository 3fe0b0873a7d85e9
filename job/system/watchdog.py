"""A watchdog: the time since the last progress of this process."""

from __future__ import annotations

import time
from collections.abc import Callable

Moved = Callable[[], None]
"""Tells that something has moved."""


class Pulse:
    """When something has moved last: a page listed, a part of the model fetched, a stage of an image done."""

    def __init__(self) -> None:
        self._moved_s = time.monotonic()

    def moved(self) -> None:
        """Something has moved; from any thread."""
        self._moved_s = time.monotonic()

    @property
    def quiet_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._moved_s
