"""The one layer in which requests to an object store are tried again.

Drivers try nothing again themselves and raise what is below; everything else passes through.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from job.errors import CredentialsRefusedError, ObjectMissingError, StorageError
from job.storage.store import Guard
from job.system.clock import SYSTEM_CLOCK, Clock

logger = logging.getLogger(__name__)

RETRY_TIMEOUT_S = 300.0
REFUSED_AT_ONCE_S = 60.0
"""A store that has refused everything since the start is given up after this long: the credentials are wrong."""
FIRST_PAUSE_S, MAX_BACKOFF_S = 0.1, 20.0
_WARN_AFTER_TRIES = 3

_T = TypeVar("_T")


class TransientError(Exception):
    """A request failed in a way that another try may mend: an outage, a throttle, a lost answer."""


class RefusedError(TransientError):
    """The store refuses this user as such. New credentials may be on their way, so it is tried again."""


@dataclass
class Retry:
    """Tries requests to one store again, with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter").

    Attributes:
        give_up_s: How long one request is tried.
        clock: What pauses are waited by.
        has_been_served: Whether any request to this store has succeeded.
    """

    give_up_s: float = RETRY_TIMEOUT_S
    clock: Clock = SYSTEM_CLOCK
    has_been_served: bool = field(default=False, init=False)

    def call(self, what: str, request: Callable[[], _T], guard: Guard | None = None) -> _T:
        """Make a request until it is served.

        Args:
            what: Names it in messages.
            request: Makes one try; raises `TransientError` to be called again.
            guard: Called before each try; what it raises ends the tries.

        Raises:
            CredentialsRefusedError: This store has refused everything since the start.
            StorageError: Not served in `give_up_s`.
        """
        begun_s, tries = self.clock.monotonic_s(), 0
        while True:
            if guard is not None:
                guard()
            try:
                result = request()
            except TransientError as exc:
                tries += 1
                self._give_up_or_pause(what, exc, tries, self.clock.monotonic_s() - begun_s)
            except ObjectMissingError:
                self.has_been_served = True
                raise
            else:
                self.has_been_served = True
                return result

    def _give_up_or_pause(self, what: str, exc: TransientError, tries: int, spent_s: float) -> None:
        is_refused = isinstance(exc, RefusedError)
        if is_refused and not self.has_been_served and spent_s > min(REFUSED_AT_ONCE_S, self.give_up_s):
            raise CredentialsRefusedError(
                f"{what}: {exc}. Refused for {spent_s:.0f} s: check the credentials and what they may do"
            ) from exc
        if spent_s > self.give_up_s:
            raise StorageError(
                f"{what}: {exc}. Tried {tries} times in {spent_s:.0f} s; the same command goes on when it is mended"
            ) from exc
        level = logging.WARNING if tries == _WARN_AFTER_TRIES or (is_refused and tries == 1) else logging.DEBUG
        logger.log(level, "%s: %s. Trying again", what, exc)
        longest = min(MAX_BACKOFF_S, FIRST_PAUSE_S * 2**tries)
        self.clock.sleep(random.uniform(FIRST_PAUSE_S / 2, longest))
