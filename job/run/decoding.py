"""Errors for stored files of a run that this version cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from job.errors import RunConflictError
from job.storage.json_errors import JSON_ERRORS

ANOTHER_RUN = "Choose another --run name"
SAME_VERSION = "Use the version of the run's workers"


@contextmanager
def decoding(url: str, advice: str = ANOTHER_RUN) -> Iterator[None]:
    """Decode a stored file in a block.

    Args:
        url: URL of the file, for the message.
        advice: What to do next.

    Raises:
        RunConflictError: An incompatible version wrote the file, or it is damaged.
    """
    try:
        yield
    except JSON_ERRORS as exc:
        raise RunConflictError(f"{url} was written by an incompatible version: {exc}. {advice}") from exc
