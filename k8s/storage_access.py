"""Access to the storage of a release within a time limit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from job.errors import AnnotateError, StorageError
from k8s.release import Release

STORAGE_WAIT_S = 30.0
"""The layer that retries is patient for minutes; who looks is not."""


_T = TypeVar("_T")


def answer_in_time(ask: Callable[[], _T]) -> _T:
    """What the storage says, for somebody who looks.

    Raises:
        StorageError: It says nothing for 30 s.
        AnnotateError: What `ask` raises.
    """
    answers: list[_T] = []
    errors: list[AnnotateError] = []

    def run() -> None:
        try:
            answers.append(ask())
        except AnnotateError as exc:
            errors.append(exc)

    asking = threading.Thread(target=run, name="storage", daemon=True)
    asking.start()
    asking.join(STORAGE_WAIT_S)
    if errors:
        raise errors[0]
    if not answers:
        raise StorageError(f"no answer for {STORAGE_WAIT_S:.0f} s")
    return answers[0]


@contextmanager
def storage_of(release: Release) -> Iterator[None]:
    """Where the workers find their storage, for what this machine's environment leaves unsaid."""
    before = dict(os.environ)
    if "AWS_ENDPOINT_URL" not in before:
        for variable, value in release.environment.items():
            os.environ.setdefault(variable, value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
