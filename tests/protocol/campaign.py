"""Scenarios with random faults, and reports of violated invariants."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.protocol.explorer import EndlessError, Explorer, FaultAt, Faults, Outcome, draw_faults
from tests.protocol.invariants import violations
from tests.protocol.process import Launch, tag_of
from tests.protocol.world import Kind, World

ALL_FAULTS = tuple(kind for kind in Kind if kind is not Kind.GO)
MAX_FAULTS = 6
SHOWN_LINES = 120
EARLIER_TAG = tag_of(0.1, "fp16")
"""Tag of the outputs that exist at the start."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Commands and the initial state of the store.

    Attributes:
        launches: Commands.
        inputs: Number of inputs.
        done: Numbers of the inputs that an earlier run has annotated.
        without_mask: Numbers of these whose mask was deleted.
    """

    launches: tuple[Launch, ...]
    inputs: int = 3
    done: str = ""
    without_mask: str = ""

    def world(self) -> World:
        """Create the store."""
        world = World()
        for number in range(self.inputs):
            world.seed(f"in/{number}.json", b"{}")
            world.seed(f"in/{number}.jpg", b"image")
            if str(number) in self.done:
                world.seed(f"out/{number}.jpg", b"image")
                world.seed(f"out/{number}.json", f"json {number}.json {EARLIER_TAG}".encode())
                if str(number) not in self.without_mask:
                    world.seed(f"out/{number}.npz", f"npz {number}.json {EARLIER_TAG}".encode())
        return world

    def run(self, faults: Faults | Sequence[FaultAt] = (), seed: int | None = None) -> Outcome:
        """Run the simulation."""
        return Explorer(self.world(), self.launches, faults, seed).run()

    def broken(self, faults: Faults | Sequence[FaultAt], seed: int | None = None) -> list[str]:
        """Run the simulation; returns the violated invariants."""
        try:
            return violations(self.run(faults, seed))
        except EndlessError as exc:
            return [f"endless: {exc}"]

    def check(self, faults: Faults | Sequence[FaultAt] = (), seed: int | None = None) -> Outcome:
        """Run the simulation; raises `AssertionError` with a report if an invariant is violated."""
        outcome = self.run(faults, seed)
        broken = violations(outcome)
        if broken:
            raise AssertionError(_report(self, faults, seed, broken, outcome.world.trace))
        return outcome

    def explore(self, seed: int) -> int:
        """Run with random faults; returns the steps, or reports a minimal set of faults that violates an invariant."""
        faults = self.drawn(seed)
        try:
            outcome = self.run(faults, _order_of(seed))
            if not violations(outcome):
                return outcome.steps
        except EndlessError:
            pass
        fewest = self._fewest(faults, _order_of(seed))
        world_broken = self.broken(fewest, _order_of(seed))
        raise AssertionError(_report(self, fewest, _order_of(seed), world_broken, self._trace(fewest, _order_of(seed))))

    def drawn(self, seed: int) -> Faults:
        """The random faults of a seed."""
        rng = random.Random(f"faults {seed}")
        return draw_faults(rng, rng.choice((60, 120, 250)), rng.randrange(MAX_FAULTS + 1), ALL_FAULTS)

    def _fewest(self, faults: Faults, seed: int | None) -> Faults:
        for step in faults:
            fewer = {other: verdict for other, verdict in faults.items() if other != step}
            if self.broken(fewer, seed):
                return self._fewest(fewer, seed)
        return faults

    def _trace(self, faults: Faults, seed: int | None) -> list[str]:
        world = self.world()
        with suppress(EndlessError):
            Explorer(world, self.launches, faults, seed).run()
        return world.trace


def _order_of(seed: int) -> int | None:
    """Seed of the scheduling order; every fourth simulation takes the first ready process."""
    return seed if seed % 4 else None


def _report(
    scenario: Scenario, faults: Faults | Sequence[FaultAt], seed: int | None, broken: list[str], trace: list[str]
) -> str:
    shown = [line for line in trace if ": sleep" not in line]
    left_out = [f"({len(shown) - SHOWN_LINES} lines left out)"] if len(shown) > SHOWN_LINES else []
    lines = [*broken, f"{scenario}.check({faults!r}, seed={seed})", *left_out, *shown[-SHOWN_LINES:]]
    return "\n".join(lines)
