"""Kills processes at chosen requests, which the proxy observes, so that every phase of a run is hit."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from dataclasses import dataclass, field

from tests.s3.proxy import Seen
from tests.s3.workers import Pod

PHASES = {
    "run": r"CREATE .*/run\.json",
    "shard of the plan": r"PUT .*/plan-[0-9a-f]+/",
    "plan": r"CREATE .*/plan\.json",
    "listing": r"LIST .*",
    "reading": r"GET /[^/]+/in/",
    "instance table": r"PUT .*/instances/",
    "journal": r"PUT .*/journal/",
    "beat": r"PUT .*/workers/",
    "image": r"COPY .*",
    "mask": r"PUT .*\.npz",
    "annotation": r"PUT /[^/]+/out/(?!_sam3).*\.json",
    "marker": r"CREATE .*/done/",
    "failure table": r"PUT .*/failures\.jsonl",
    "end": r"CREATE .*/end\.json",
}
ONCE = {"run", "shard of the plan", "plan", "failure table", "end"}
"""Phases that occur once in a run: they are always hit."""


@dataclass
class Kill:
    """A planned or completed kill.

    Attributes:
        phase: Of the request at which it happens.
        signal: Number of the signal.
        is_done_first: Whether the server handles the request before the process gets the signal.
    """

    phase: str
    signal: int
    is_done_first: bool


@dataclass
class Storm:
    """Kills pods at their requests, one after the other.

    Attributes:
        pods: The pods that may be killed.
        seed: Of the random choices; printed, so that a storm can be repeated.
        count: Number of kills; each phase is hit at least once.
        gap_s: Shortest time between two kills at phases that occur often.
        done: Kills and pods, in order.
    """

    pods: list[Pod]
    seed: int
    count: int
    gap_s: float
    done: list[tuple[Kill, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        phases = list(PHASES) + rng.choices([name for name in PHASES if name not in ONCE], k=self.count)
        self._left = [
            Kill(phase, rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]), rng.random() < 0.5)
            for phase in phases[: max(self.count, len(PHASES))]
        ]
        rng.shuffle(self._left)
        self._last_s = time.monotonic()
        self._pending: dict[Seen, Kill] = {}

    @property
    def is_over(self) -> bool:
        return not self._left

    @property
    def left(self) -> list[str]:
        return [kill.phase for kill in self._left]

    def before(self, seen: Seen) -> bool:
        """Whether the request is forwarded."""
        kill = self._choose(seen)
        if kill is None:
            return True
        if kill.is_done_first:
            self._pending[seen] = kill
            return True
        self._kill(kill, seen)
        return kill.signal != signal.SIGKILL

    def after(self, seen: Seen) -> None:
        kill = self._pending.pop(seen, None)
        if kill is not None:
            self._kill(kill, seen)

    def _choose(self, seen: Seen) -> Kill | None:
        may_often = time.monotonic() - self._last_s >= self.gap_s
        text = f"{seen.kind} {seen.path}"
        for kill in self._left:
            if (kill.phase in ONCE or may_often) and re.match(PHASES[kill.phase], text) and self._pod_of(seen):
                self._left.remove(kill)
                self._last_s = time.monotonic()
                return kill
        return None

    def _kill(self, kill: Kill, seen: Seen) -> None:
        pod = self._pod_of(seen)
        if pod is not None and pod.process is not None:
            os.kill(pod.pid, kill.signal)
            self.done.append((kill, pod.name))

    def _pod_of(self, seen: Seen) -> Pod | None:
        return next((pod for pod in self.pods if pod.name in seen.agent.split() and pod.process is not None), None)

    def report(self) -> str:
        """One line for each kill."""
        lines = [
            f"{signal.Signals(kill.signal).name} {'after' if kill.is_done_first else 'before'} {kill.phase}: {name}"
            for kill, name in self.done
        ]
        return f"storm with seed {self.seed}, {len(lines)} kills:\n" + "\n".join(lines)
