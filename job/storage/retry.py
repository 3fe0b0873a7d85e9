"""The only layer that retries requests to an object store.

Drivers never retry. They raise the exceptions below; this layer passes every other exception on.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from job.errors import ConfigurationError, CredentialsRefusedError, ObjectMissingError, StorageError
from job.storage.concurrency import AdaptiveConcurrency
from job.storage.store import Guard
from job.system.clock import SYSTEM_CLOCK, Clock
from job.system.leaving import LEAVING

logger = logging.getLogger(__name__)

_jitter = random.Random()  # not the shared generator: a caller may have seeded it, and expects its own numbers

RETRY_TIMEOUT_S = 300.0
CREDENTIALS_TIMEOUT_S = 60.0
"""Longest retry while a store has refused every request, or every write, so far: then the credentials are wrong."""
DOWN_TIMEOUT_S = 5.0
"""Longest retry after a request to the same store has failed for good, until one succeeds: the process is leaving."""
MAX_REJECTED_TRIES = 4
"""Tries of a request that the store rejects as invalid."""
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.1, 20.0
_WARN_AFTER_TRIES = 3

_T = TypeVar("_T")


class TransientError(Exception):
    """A request failed and a retry may succeed: an outage, throttling, a lost response."""


class ThrottledError(TransientError):
    """The store asks for fewer requests. Retried with fewer requests at a time."""


class RefusedError(TransientError):
    """Credentials were rejected. Retried, because credentials may be rotated."""


class RejectedError(TransientError):
    """The store rejected the request itself, such as a header or its size. Tried `MAX_REJECTED_TRIES` times at most."""


@dataclass
class Retry:
    """Retries requests to one store with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter").

    Attributes:
        timeout_s: How long one request is retried.
        clock: Measures and waits.
        has_been_served: Whether any request to this store has succeeded.
        has_written: Whether any write to this store has succeeded.
        is_down: Whether a request has failed for good and none has succeeded since.
        concurrency: Limits the requests at a time.
    """

    timeout_s: float = RETRY_TIMEOUT_S
    clock: Clock = SYSTEM_CLOCK
    has_been_served: bool = field(default=False, init=False)
    has_written: bool = field(default=False, init=False)
    is_down: bool = field(default=False, init=False)
    concurrency: AdaptiveConcurrency = field(init=False)

    def __post_init__(self) -> None:
        """Start with the store's initial number of requests at a time."""
        self.concurrency = AdaptiveConcurrency(self.clock)

    def call(self, what: str, request: Callable[[], _T], guard: Guard | None = None, *, is_write: bool = False) -> _T:
        """Repeat a request until it succeeds.

        Args:
            what: Names the request in messages.
            request: Makes one try; raises `TransientError` to be called again.
            guard: Called before each try; an exception that it raises stops the retries.
            is_write: Whether the request stores an object.

        Raises:
            ConfigurationError: The store rejected the first write of this process as invalid.
            CredentialsRefusedError: The store has refused every request, or every write, of this process.
            StorageError: No success within `timeout_s`, or the store rejected the request as invalid.
        """
        spent_s, tries = 0.0, 0
        while True:
            with self.concurrency.turn():
                begun_s = self.clock.monotonic_s()
                try:
                    return self._try(request, guard, is_write=is_write)
                except TransientError as exc:
                    tries, error = tries + 1, exc
                has_succeeded = self.has_written if is_write else self.has_been_served
                spent_s += self.clock.monotonic_s() - begun_s
                self._raise_if_final(f"{what}: {error}", error, tries, spent_s, has_succeeded=has_succeeded)
                if isinstance(error, RejectedError) and tries >= MAX_REJECTED_TRIES:
                    raise self._rejection(f"{what}: {error}", is_write=is_write) from error
                if isinstance(error, ThrottledError):  # a pause within the turn: others would take it up at once
                    self.concurrency.throttled()
                    spent_s += self._pause(what, error, tries)
                    continue
            spent_s += self._pause(what, error, tries)

    def _try(self, request: Callable[[], _T], guard: Guard | None, *, is_write: bool) -> _T:
        if guard is not None:
            guard()
        try:
            result = request()
        except ObjectMissingError:
            self._served()
            raise
        self._served()
        self.has_written |= is_write and result is not False  # a driver returns False when it wrote nothing
        return result

    def _served(self) -> None:
        self.has_been_served, self.is_down = True, False
        self.concurrency.succeeded()

    def _raise_if_final(
        self, message: str, exc: TransientError, tries: int, spent_s: float, *, has_succeeded: bool
    ) -> None:
        timeout_s = min(DOWN_TIMEOUT_S, self.timeout_s) if self.is_down else self.timeout_s
        if isinstance(exc, RefusedError) and not has_succeeded and spent_s > min(CREDENTIALS_TIMEOUT_S, timeout_s):
            self.is_down = True
            raise CredentialsRefusedError(
                f"{message}. Refused for {spent_s:.0f} s: check the credentials and their permissions"
            ) from exc
        if spent_s > timeout_s or LEAVING.is_overdue:
            self.is_down = True
            raise StorageError(
                f"{message}. Tried {tries} times in {spent_s:.0f} s; rerun the same command to resume"
            ) from exc

    def _rejection(self, message: str, *, is_write: bool) -> ConfigurationError | StorageError:
        """Every process would see the rejection of the first write, but not of a later one."""
        message = f"{message}. Rejected {MAX_REJECTED_TRIES} times"
        if is_write and not self.has_written:
            return ConfigurationError(f"{message}: change the storage or its settings, a retry cannot succeed")
        return StorageError(f"{message}: remove the cause, then rerun the same command to resume")

    def _pause(self, what: str, exc: TransientError, tries: int) -> float:
        """Wait before the next try; returns the seconds."""
        is_warning = tries == _WARN_AFTER_TRIES or (isinstance(exc, RefusedError | RejectedError) and tries == 1)
        logger.log(logging.WARNING if is_warning else logging.DEBUG, "%s: %s. Retrying", what, exc)
        longest_s = min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2**tries)
        seconds = _jitter.uniform(MIN_BACKOFF_S / 2, longest_s)
        self.clock.sleep(seconds)
        return seconds
