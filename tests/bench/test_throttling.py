"""A cold bucket that many pods begin to write to, scaled down: 35 writes/s, twice as many every 20 s.

S3 takes 3,500 writes/s for each partition and splits partitions under load, in half an hour or more. Time runs ten
times as fast here.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from job.storage.concurrency import AdaptiveConcurrency
from job.storage.retry import Retry, ThrottledError

pytestmark = pytest.mark.slow

SPEED = 10.0
PODS, THREADS, WRITES = 20, 8, 6_000
REQUEST_S = 0.05


class FastClock:
    """Ten seconds in one."""

    def monotonic_s(self) -> float:
        return time.monotonic() * SPEED

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / SPEED)


class Unlimited(AdaptiveConcurrency):
    """Takes no notice of refusals."""

    def throttled(self) -> None:
        """Keep the limit."""


@dataclass
class Bucket:
    """Accepts 35 writes/s, twice as many every 20 s, and refuses the rest."""

    clock: FastClock
    begun_s: float = 0.0
    tokens: float = 35.0
    filled_s: float = 0.0
    written: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self) -> None:
        self.clock.sleep(REQUEST_S)
        with self.lock:
            now_s = self.clock.monotonic_s() - self.begun_s
            rate = 35.0 * 2 ** (now_s // 20)
            self.tokens = min(rate, self.tokens + (now_s - self.filled_s) * rate)
            self.filled_s = now_s
            if self.tokens < 1:
                self.refused += 1
                raise ThrottledError("SlowDown: Please reduce your request rate")
            self.tokens -= 1
            self.written += 1


def fill(kind: type[AdaptiveConcurrency]) -> tuple[float, Bucket]:
    """Seconds that all pods take to write everything, and the bucket."""
    clock = FastClock()
    bucket = Bucket(clock, begun_s=clock.monotonic_s())
    retries = [Retry(clock=clock) for _ in range(PODS)]
    for retry in retries:
        retry.concurrency = kind(clock)
    with ThreadPoolExecutor(PODS * THREADS) as pool:
        list(pool.map(lambda number: retries[number % PODS].call("k", bucket.put, is_write=True), range(WRITES)))
    return clock.monotonic_s() - bucket.begun_s, bucket


def test_fewer_requests_at_a_time_lose_no_write_and_waste_fewer_requests() -> None:
    fixed_s, fixed = fill(Unlimited)
    adaptive_s, adaptive = fill(AdaptiveConcurrency)

    for name, seconds, bucket in (("fixed", fixed_s, fixed), ("adaptive", adaptive_s, adaptive)):
        line = f"{name:9}{seconds:6.0f} s, refused {bucket.refused / bucket.written:.2f} a write"
        sys.stdout.write(f"{line}\n")
    assert fixed.written == adaptive.written == WRITES
    assert adaptive.refused < 0.5 * fixed.refused
    assert adaptive_s < 1.3 * fixed_s
