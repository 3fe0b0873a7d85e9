"""Patience of a pod whose storage refuses its credentials, such as keys that were changed before the Secret."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TypeVar

from job.errors import CredentialsRefusedError
from job.system.clock import SYSTEM_CLOCK, Clock

logger = logging.getLogger(__name__)

FAILURES_VARIABLE = "SAM3_INDEX_FAILURES"
"""Environment variable with the number of failed pods of this index so far: the annotation
`batch.kubernetes.io/job-index-failure-count` (KEP-3850)."""

IMPATIENT_TRIES = 2
"""The first tries of an index leave at once, so that the reason is seen in its failed pods."""
MAX_PATIENCE_S = 3600.0
_PAUSE_S = 15.0
_STEP_S = 5.0

_T = TypeVar("_T")


def patience_s(failures: int) -> float:
    """How long a pod waits for valid credentials: 2, 4, 8, … minutes, at most an hour.

    Twenty tries, as many as an index of the chart's Jobs has, last for more than 14 hours.

    Args:
        failures: Failed pods of the index so far.
    """
    if failures < IMPATIENT_TRIES:
        return 0.0
    return float(min(MAX_PATIENCE_S, 60 << min(failures - IMPATIENT_TRIES + 1, 10)))


def index_failures() -> int:
    """Failed pods of this index so far; 0 outside of a cluster."""
    text = os.environ.get(FAILURES_VARIABLE, "")
    return int(text) if text.isdecimal() else 0


def call_with_patience(
    call: Callable[[], _T], failures: int, on_wait: Callable[[], None], clock: Clock = SYSTEM_CLOCK
) -> _T:
    """Call again while the store refuses the credentials of this process from the start.

    Args:
        call: May be called again after `CredentialsRefusedError`, because nothing was done.
        failures: Failed pods of the index so far.
        on_wait: Called at least every 5 s during a wait.
        clock: Measures and waits.

    Raises:
        CredentialsRefusedError: The patience is used up.
    """
    end_s = clock.monotonic_s() + patience_s(failures)
    while True:
        try:
            return call()
        except CredentialsRefusedError as exc:
            left_s = end_s - clock.monotonic_s()
            if left_s <= 0:
                raise
            logger.warning("%s. Failed pod number %d of this index: trying for %.0f s more", exc, failures, left_s)
            for _ in range(int(_PAUSE_S / _STEP_S)):
                on_wait()
                clock.sleep(_STEP_S)
