"""Adaptive number of requests at a time to one store: additive increase, multiplicative decrease (RFC 5681, 3.1).

S3 splits a prefix into partitions while it is under load, which takes half an hour or more, and answers with 503 until
then ("Best practices design patterns: optimizing Amazon S3 performance"). Retries alone keep up the load.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from job.system.clock import SYSTEM_CLOCK, Clock

MAX_REQUESTS = 64
INITIAL_REQUESTS = 32
_DECREASE_INTERVAL_S = 1.0
"""Refusals within this time are answers to one load, and reduce it once."""


class AdaptiveConcurrency:
    """Limits the requests at a time; threads wait for their turn.

    Attributes:
        limit: Requests at a time, 1 to `MAX_REQUESTS`; a fraction is carried.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.limit = float(INITIAL_REQUESTS)
        self._clock = clock
        self._is_free = threading.Condition()
        self._running = 0
        self._decreased_s = -_DECREASE_INTERVAL_S

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn and hold it during the block."""
        with self._is_free:
            self._is_free.wait_for(lambda: self._running < int(self.limit))
            self._running += 1
        try:
            yield
        finally:
            with self._is_free:
                self._running -= 1
                self._is_free.notify()

    def succeeded(self) -> None:
        """Allow one request more after as many successes as requests run at a time."""
        with self._is_free:
            self.limit = min(float(MAX_REQUESTS), self.limit + 1 / self.limit)
            self._is_free.notify()

    def throttled(self) -> None:
        """Halve the requests at a time."""
        now_s = self._clock.monotonic_s()
        with self._is_free:
            if now_s - self._decreased_s >= _DECREASE_INTERVAL_S:
                self.limit, self._decreased_s = max(1.0, self.limit / 2), now_s
