"""Memory budgets, in bytes, that several threads share.

There are two budgets. *Resident* bytes belong to an image from its admission to its result. No stage waits for them, so
deadlock is impossible. *Transient* bytes belong to one call (a decoded raster); a thread that waits for them holds no
other transient bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ByteBudget:
    """Counts bytes against a limit.

    A request larger than the limit is admitted when nothing else is held, so no request waits forever.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._condition = threading.Condition()

    @property
    def used(self) -> int:
        """Bytes held."""
        return self._used

    def try_acquire(self, size: int) -> bool:
        """Hold `size` bytes if they fit or nothing else is held; returns whether it did."""
        with self._condition:
            if not self._fits(size):
                return False
            self._used += size
            return True

    def release(self, size: int) -> None:
        """Release bytes; a negative size holds more without waiting."""
        with self._condition:
            self._used -= size
            self._condition.notify_all()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes fit, and hold them during a block."""
        with self._condition:
            self._condition.wait_for(lambda: self._fits(size))
            self._used += size
        try:
            yield
        finally:
            self.release(size)

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._limit


class ResidentBudget:
    """Admits images to the pipeline, by the size of the largest one so far.

    The size of an image is unknown until it is read, so each admission holds the size of the largest image before it.

    Attributes:
        limit_bytes: For all images together.
    """

    def __init__(self, limit_bytes: int, fixed_bytes: int) -> None:
        """Create an empty budget.

        Args:
            limit_bytes: For all images together.
            fixed_bytes: Model input, mask logits and outputs of one image, without its file.
        """
        self._budget = ByteBudget(limit_bytes)
        self._fixed = fixed_bytes
        self._largest_file = 0
        self.limit_bytes = limit_bytes

    @property
    def used(self) -> int:
        """Bytes that images in flight and buffered rows hold."""
        return self._budget.used

    def record_file(self, file_bytes: int) -> None:
        """Record the size of an image file."""
        self._largest_file = max(self._largest_file, file_bytes)

    def try_admit(self) -> int | None:
        """Admit one image; returns the bytes to `release`, or None if there is no room."""
        size = self._fixed + self._largest_file
        return size if self._budget.try_acquire(size) else None

    def hold(self, size: int) -> None:
        """Hold bytes that exist already, without waiting: rows that the journal has not stored."""
        self._budget.release(-size)

    def release(self, size: int) -> None:
        """Release the bytes of a finished image, or of stored rows."""
        self._budget.release(size)
