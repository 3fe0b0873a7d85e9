"""Bounds on memory, in bytes, that several threads share.

Two kinds of bytes, two budgets. *Resident* bytes belong to an image from its admission to its end; nobody ever
waits for them inside a stage, so the stages cannot wait for one another in a circle. *Transient* bytes are held
for the length of one call (a decoded raster) by threads that hold no other transient bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ByteBudget:
    """Counts bytes against a limit.

    One request larger than the whole limit is let in alone, so that nothing waits for ever.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._condition = threading.Condition()

    @property
    def used(self) -> int:
        """Bytes that are held."""
        return self._used

    def try_acquire(self, size: int) -> bool:
        """Hold `size` bytes if they fit, or if nothing else is held; returns whether they are held."""
        with self._condition:
            if not self._fits(size):
                return False
            self._used += size
            return True

    def release(self, size: int) -> None:
        """Give back bytes that are held; a negative size holds more without asking."""
        with self._condition:
            self._used -= size
            self._condition.notify_all()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes fit, and hold them for the length of a block."""
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
    """Room for images on their way, by what the largest one seen so far took.

    An image's size is known only once it is read, so each is let in at the price of the largest before it.
    """

    def __init__(self, limit_bytes: int, fixed_bytes: int) -> None:
        """Take the limit, and what every image takes beside its file.

        Args:
            limit_bytes: For all images together.
            fixed_bytes: Model input, mask logits and outputs of one image.
        """
        self._budget = ByteBudget(limit_bytes)
        self._fixed = fixed_bytes
        self._largest_file = 0

    @property
    def used(self) -> int:
        """Bytes that images on their way hold."""
        return self._budget.used

    def saw(self, file_bytes: int) -> None:
        """Learn the size of an image file."""
        self._largest_file = max(self._largest_file, file_bytes)

    def try_admit(self) -> int | None:
        """Room for one image, in bytes to give back to `release`, or None while there is none."""
        size = self._fixed + self._largest_file
        return size if self._budget.try_acquire(size) else None

    def release(self, size: int) -> None:
        """An image has come to its end."""
        self._budget.release(size)
