"""Signs that a process gets on: a pulse that every step forward beats, and who is told of results.

The heartbeat in storage says that a process exists. Its thread beats on while the others are stuck, so it is no
step forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from job.storage.retry import GIVE_UP_S
from job.system.watchdog import Pulse

MARGIN_S = 60.0


def longest_quiet_s(image_timeout_s: float) -> float:
    """How long nothing may move: one stage may take its time, one request of storage is tried so long."""
    return image_timeout_s + GIVE_UP_S + MARGIN_S


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

    def run_known(self, run_name: str) -> None:
        """The run has begun, or goes on."""

    def model_loaded(self, seconds: float) -> None:
        """A worker has its model."""

    def worker_ready(self, load: Callable[[], Load]) -> None:
        """The worker of this process works, and can be asked for its load."""

    def image_finished(self, result: str, seconds: Mapping[str, float]) -> None:
        """An image has a result, after so many seconds in each stage."""


class Nobody(Observer):
    """Looks at nothing."""


@dataclass(frozen=True)
class Watch:
    """How a process is looked at."""

    pulse: Pulse = field(default_factory=Pulse)
    observer: Observer = field(default_factory=Nobody)
