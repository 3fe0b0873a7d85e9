"""Observers: who is told of the progress of a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from job.system.watchdog import Watchdog


@dataclass(frozen=True)
class Load:
    """What is on its way in a worker.

    Attributes:
        queued: Images waiting for each stage.
        resident_bytes: Memory that images on their way hold.
    """

    queued: Mapping[str, int]
    resident_bytes: int


class Observer(Protocol):
    """Who looks at a process from outside while it works."""

    def run_opened(self, run_name: str) -> None:
        """The run has begun, or goes on."""

    def model_loaded(self, seconds: float) -> None:
        """A worker has its model."""

    def model_checked(self, digest: str) -> None:
        """A worker has passed the self-check of this digest; empty when the check is off."""

    def worker_ready(self, load: Callable[[], Load]) -> None:
        """The worker of this process works, and can be asked for its load."""

    def image_finished(self, result: str, seconds: Mapping[str, float]) -> None:
        """An image has a result, after so many seconds in each stage."""


class NullObserver(Observer):
    """Looks at nothing."""


@dataclass(frozen=True)
class Watch:
    """How a process is looked at."""

    watchdog: Watchdog = field(default_factory=Watchdog)
    observer: Observer = field(default_factory=NullObserver)
