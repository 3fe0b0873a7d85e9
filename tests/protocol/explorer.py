"""The scheduler: runs simulated processes one operation at a time and injects faults."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.protocol.process import Launch, WorkerId, simulated, worker_ids_of
from tests.protocol.world import LATENCY_S, MAX_GHOST_S, Actor, Kind, Verdict, World

MAX_STEPS = 20_000
FINAL_CODES = {0, 2, 65, 78}
_RESTART_S = 5.0

Faults = Mapping[int, Verdict]
"""Faults by step of the simulation, counted from 0."""


@dataclass
class FaultAt:
    """A fault at the first matching operation of a process.

    Attributes:
        process: Prefix of its name, `run/pool-index#number`.
        operation: Regular expression that matches the operation.
        verdict: Outcome of the operation.
        after: A fault that must have happened first.
    """

    process: str
    operation: str
    verdict: Verdict
    after: FaultAt | None = None
    is_used: bool = False

    def fits(self, actor: Actor) -> bool:
        """Whether the next operation of a process matches."""
        is_due = not self.is_used and (self.after is None or self.after.is_used)
        return is_due and actor.name.startswith(self.process) and bool(re.search(self.operation, actor.pending))


DEADLY = (Kind.CRASH_BEFORE, Kind.CRASH_AFTER, Kind.CRASH_GHOST, Kind.TERM)
STALLS_S = (1.0, 12.0, 29.0, 31.0, 45.0, 61.0, 75.0, 130.0, 400.0, 1500.0)


class EndlessError(Exception):
    """The simulation did not end."""


@dataclass
class Slot:
    """A worker ID and its processes; `exit_code` after the last one."""

    worker_id: WorkerId
    actors: list[Actor] = field(default_factory=list)
    due_s: float | None = None
    exit_code: int | None = None


@dataclass
class Outcome:
    """The result of a simulation.

    Attributes:
        world: Its final state.
        slots: Worker IDs with their exit codes.
        steps: Number of operations.
    """

    world: World
    slots: list[Slot]
    steps: int = 0

    def slot_of(self, actor: int) -> Slot:
        """The slot of a process."""
        return next(slot for slot in self.slots if any(one.number == actor for one in slot.actors))

    def actor(self, number: int) -> Actor:
        """A process by its number."""
        return next(one for slot in self.slots for one in slot.actors if one.number == number)


class Explorer:
    """Runs one simulation to its end."""

    def __init__(
        self, world: World, launches: Sequence[Launch], faults: Faults | Sequence[FaultAt], seed: int | None = None
    ) -> None:
        """Prepare a simulation.

        Args:
            world: The store with the inputs.
            launches: Commands to start.
            faults: Faults to inject.
            seed: Seed of the scheduling order; None for the first ready process.
        """
        self._world = world
        self._faults = faults
        self._random = None if seed is None else random.Random(seed)
        self._slots = [
            Slot(worker_id, due_s=world.now_s + worker_id.launch.at_s) for worker_id in worker_ids_of(launches)
        ]
        self._count = 0
        self.outcome = Outcome(world, self._slots)

    def run(self) -> Outcome:
        """Run until no process is left and none is due.

        Raises:
            EndlessError: The simulation exceeded `MAX_STEPS`.
        """
        state = random.getstate()
        random.seed(7)
        try:
            with simulated(self._world):
                while self._advance():
                    if self.outcome.steps > MAX_STEPS:
                        raise EndlessError(f"not finished after {MAX_STEPS} steps")
        finally:
            self._kill_all()
            random.setstate(state)
        return self.outcome

    def _advance(self) -> bool:
        """Perform one step, or advance time to the next one; returns False at the end."""
        world = self._world
        self._complete_ghosts()
        for slot in self._slots:
            if slot.due_s is not None and slot.due_s <= world.now_s:
                self._start_process(slot)
        live = [actor for slot in self._slots for actor in slot.actors if not actor.is_over]
        ready = [actor for actor in live if actor.wake_s <= world.now_s + 1e-9]
        if ready:
            self._step(self._random.choice(ready) if self._random else ready[0])
            return True
        moments = [actor.wake_s for actor in live] + [time_s for time_s, _ in world.ghosts]
        moments += [slot.due_s for slot in self._slots if slot.due_s is not None]
        if moments:
            world.now_s = max(world.now_s, min(moments))
        return bool(moments)

    def _complete_ghosts(self) -> None:
        world = self._world
        due = [ghost for ghost in world.ghosts if ghost[0] <= world.now_s]
        world.ghosts = [ghost for ghost in world.ghosts if ghost[0] > world.now_s]
        for _, event in due:
            world.log(f"a request whose client timed out completes: {event.what} {event.key}")
            world.store(event)

    def _start_process(self, slot: Slot) -> None:
        self._count += 1
        worker_id = slot.worker_id
        actor = Actor(
            self._world,
            self._count,
            f"{worker_id.launch.run_name}/{worker_id.pool.name}-{worker_id.index}#{self._count}",
        )
        slot.actors.append(actor)
        slot.due_s = None
        actor.start(worker_id.body(self._world, actor))

    def _step(self, actor: Actor) -> None:
        verdict = self._verdict_on(actor)
        if verdict.kind in (Kind.STOP, Kind.REPLACED, Kind.SUSPEND):
            self._stall(actor, verdict)
            self.outcome.steps += 1
            return
        note = "" if verdict.kind is Kind.GO else f"   <-- {verdict.kind.name} {verdict.seconds:g}"
        self._world.log(f"{self.outcome.steps:5d} {actor.name}: {actor.pending}{note}")
        self.outcome.steps += 1
        self._world.now_s += LATENCY_S
        actor.resume(verdict)
        if actor.is_over:
            self._on_exit(actor)

    def _verdict_on(self, actor: Actor) -> Verdict:
        if isinstance(self._faults, Mapping):
            return self._faults.get(self.outcome.steps, Verdict())
        for fault in self._faults:
            if fault.fits(actor):
                fault.is_used = True
                return fault.verdict
        return Verdict()

    def _stall(self, actor: Actor, verdict: Verdict) -> None:
        self._world.log(
            f"{self.outcome.steps:5d} {actor.name}: {verdict.kind.name} {verdict.seconds:g} before {actor.pending}"
        )
        actor.wake_s = self._world.now_s + verdict.seconds
        if verdict.kind is Kind.SUSPEND:
            actor.asleep_s += verdict.seconds
        slot = self.outcome.slot_of(actor.number)
        if verdict.kind is Kind.REPLACED and slot.actors[-1] is actor:
            slot.due_s = self._world.now_s + _RESTART_S

    def _on_exit(self, actor: Actor) -> None:
        self._world.log(f"      {actor.name}: exit {actor.exit_code} {actor.message or actor.error or ''}")
        slot = self.outcome.slot_of(actor.number)
        if slot.actors[-1] is not actor or slot.due_s is not None:
            return
        if actor.exit_code in FINAL_CODES or not slot.worker_id.launch.is_restarted:
            slot.exit_code = actor.exit_code
        else:
            slot.due_s = self._world.now_s + _RESTART_S

    def _kill_all(self) -> None:
        for slot in self._slots:
            for actor in slot.actors:
                if not actor.is_over:
                    actor.is_dead = True
                    actor.resume(Verdict())


def draw_faults(rng: random.Random, steps: int, count: int, kinds: Sequence[Kind]) -> dict[int, Verdict]:
    """Draw `count` faults within `steps` steps."""
    faults = {}
    for _ in range(count):
        kind = rng.choice(kinds)
        is_ghost = kind in (Kind.CRASH_GHOST, Kind.RETRY_GHOST)
        seconds = rng.choice((0.5, 8.0, MAX_GHOST_S)) if is_ghost else rng.choice(STALLS_S)
        faults[rng.randrange(steps)] = Verdict(kind, seconds)
    return faults
