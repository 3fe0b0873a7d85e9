"""Observers of the progress of a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from job.system.watchdog import Watchdog


@dataclass(frozen=True)
class Load:
    """The images in flight in a worker.

    Attributes:
        queued: Images waiting for each stage.
        resident_bytes: Memory of images in flight.
    """

    queued: Mapping[str, int]
    resident_bytes: int


class Observer(Protocol):
    """Receives events of a process while it works."""

    def run_opened(self, run_name: str) -> None:
        """The run has started or resumed."""

    def model_loaded(self, seconds: float) -> None:
        """A worker has loaded its model."""

    def model_checked(self, digest: str) -> None:
        """A worker has passed the self-check of this digest; empty when the check is off."""

    def worker_ready(self, load: Callable[[], Load]) -> None:
        """The worker of this process is ready, and `load` returns its load."""

    def image_finished(self, result: str, seconds: Mapping[str, float]) -> None:
        """An image has a result; `seconds` is the time by stage."""


class NullObserver(Observer):
    """Ignores every event."""


@dataclass(frozen=True)
class Watch:
    """How a process is observed."""

    watchdog: Watchdog = field(default_factory=Watchdog)
    observer: Observer = field(default_factory=NullObserver)
