"""Lets processes live in a world, one operation after the other, with faults where the test wants them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.protocol.process import Launch, Place, places_of, simulated
from tests.protocol.world import LATENCY_S, MOST_GHOST_S, Actor, Kind, Verdict, World

MOST_STEPS = 20_000
FINAL_CODES = {0, 2, 65, 78}
_RESTART_S = 5.0

Faults = Mapping[int, Verdict]
"""What becomes of which step of the whole world, counted from 0."""


@dataclass
class Cue:
    """A fault at a moment that has a name: before an operation of a process, the first time that it comes up.

    Attributes:
        process: Its name begins with this, `run/pool-index#number`.
        operation: Regular expression found in the operation.
        verdict: What becomes of it.
        after: Cues that must have come first.
    """

    process: str
    operation: str
    verdict: Verdict
    after: Cue | None = None
    is_used: bool = False

    def fits(self, actor: Actor) -> bool:
        """Whether this is the moment."""
        is_due = not self.is_used and (self.after is None or self.after.is_used)
        return is_due and actor.name.startswith(self.process) and bool(re.search(self.operation, actor.pending))


DEADLY = (Kind.CRASH_BEFORE, Kind.CRASH_AFTER, Kind.CRASH_GHOST, Kind.TERM)
STALLS_S = (1.0, 12.0, 29.0, 31.0, 45.0, 61.0, 75.0, 130.0, 400.0, 1500.0)


class EndlessError(Exception):
    """The world did not come to rest."""


@dataclass
class Seat:
    """A place and who has it; `exit_code` once nobody is to take it again."""

    place: Place
    actors: list[Actor] = field(default_factory=list)
    due_s: float | None = None
    exit_code: int | None = None


@dataclass
class Outcome:
    """What a world came to.

    Attributes:
        world: At rest.
        seats: With their exit codes.
        steps: Operations in all.
    """

    world: World
    seats: list[Seat]
    steps: int = 0

    def seat_of(self, actor: int) -> Seat:
        """Where a process belongs."""
        return next(seat for seat in self.seats if any(one.number == actor for one in seat.actors))

    def actor(self, number: int) -> Actor:
        """A process by its number."""
        return next(one for seat in self.seats for one in seat.actors if one.number == number)


class Explorer:
    """Runs one world to its rest."""

    def __init__(
        self, world: World, launches: Sequence[Launch], faults: Faults | Sequence[Cue], seed: int | None = None
    ) -> None:
        """Nothing happens yet.

        Args:
            world: With its inputs.
            launches: What is started.
            faults: What goes wrong.
            seed: Of the order in which processes go on; None for the first that can.
        """
        self._world = world
        self._faults = faults
        self._random = None if seed is None else random.Random(seed)
        self._seats = [Seat(place, due_s=world.now_s + place.launch.at_s) for place in places_of(launches)]
        self._count = 0
        self.outcome = Outcome(world, self._seats)

    def run(self) -> Outcome:
        """Until every seat is empty for good and no process is left.

        Raises:
            EndlessError: It goes on and on.
        """
        state = random.getstate()
        random.seed(7)
        try:
            with simulated(self._world):
                while self._go_on():
                    if self.outcome.steps > MOST_STEPS:
                        raise EndlessError(f"not at rest after {MOST_STEPS} steps")
        finally:
            self._kill_all()
            random.setstate(state)
        return self.outcome

    def _go_on(self) -> bool:
        """One step, or a leap to the next moment at which one can be taken; False at rest."""
        world = self._world
        self._land_ghosts()
        for seat in self._seats:
            if seat.due_s is not None and seat.due_s <= world.now_s:
                self._take_seat(seat)
        live = [actor for seat in self._seats for actor in seat.actors if not actor.is_over]
        ready = [actor for actor in live if actor.wake_s <= world.now_s + 1e-9]
        if ready:
            self._step(self._random.choice(ready) if self._random else ready[0])
            return True
        moments = [actor.wake_s for actor in live] + [time_s for time_s, _ in world.ghosts]
        moments += [seat.due_s for seat in self._seats if seat.due_s is not None]
        if moments:
            world.now_s = max(world.now_s, min(moments))
        return bool(moments)

    def _land_ghosts(self) -> None:
        world = self._world
        due = [ghost for ghost in world.ghosts if ghost[0] <= world.now_s]
        world.ghosts = [ghost for ghost in world.ghosts if ghost[0] > world.now_s]
        for _, event in due:
            world.say(f"a request that was given up lands: {event.what} {event.key}")
            world.store(event)

    def _take_seat(self, seat: Seat) -> None:
        self._count += 1
        place = seat.place
        actor = Actor(
            self._world, self._count, f"{place.launch.run_name}/{place.pool.name}-{place.index}#{self._count}"
        )
        seat.actors.append(actor)
        seat.due_s = None
        actor.start(place.body(self._world, actor))

    def _step(self, actor: Actor) -> None:
        verdict = self._verdict_on(actor)
        if verdict.kind in (Kind.STOP, Kind.REPLACED, Kind.SUSPEND):
            self._stall(actor, verdict)
            self.outcome.steps += 1
            return
        note = "" if verdict.kind is Kind.GO else f"   <-- {verdict.kind.name} {verdict.seconds:g}"
        self._world.say(f"{self.outcome.steps:5d} {actor.name}: {actor.pending}{note}")
        self.outcome.steps += 1
        self._world.now_s += LATENCY_S
        actor.resume(verdict)
        if actor.is_over:
            self._on_exit(actor)

    def _verdict_on(self, actor: Actor) -> Verdict:
        if isinstance(self._faults, Mapping):
            return self._faults.get(self.outcome.steps, Verdict())
        for cue in self._faults:
            if cue.fits(actor):
                cue.is_used = True
                return cue.verdict
        return Verdict()

    def _stall(self, actor: Actor, verdict: Verdict) -> None:
        self._world.say(
            f"{self.outcome.steps:5d} {actor.name}: {verdict.kind.name} {verdict.seconds:g} before {actor.pending}"
        )
        actor.wake_s = self._world.now_s + verdict.seconds
        if verdict.kind is Kind.SUSPEND:
            actor.asleep_s += verdict.seconds
        seat = self.outcome.seat_of(actor.number)
        if verdict.kind is Kind.REPLACED and seat.actors[-1] is actor:
            seat.due_s = self._world.now_s + _RESTART_S

    def _on_exit(self, actor: Actor) -> None:
        self._world.say(f"      {actor.name}: exit {actor.exit_code} {actor.message or actor.error or ''}")
        seat = self.outcome.seat_of(actor.number)
        if seat.actors[-1] is not actor or seat.due_s is not None:
            return
        if actor.exit_code in FINAL_CODES or not seat.place.launch.is_restarted:
            seat.exit_code = actor.exit_code
        else:
            seat.due_s = self._world.now_s + _RESTART_S

    def _kill_all(self) -> None:
        for seat in self._seats:
            for actor in seat.actors:
                if not actor.is_over:
                    actor.is_dead = True
                    actor.resume(Verdict())


def draw_faults(rng: random.Random, steps: int, count: int, kinds: Sequence[Kind]) -> dict[int, Verdict]:
    """So many faults, anywhere in so many steps."""
    faults = {}
    for _ in range(count):
        kind = rng.choice(kinds)
        is_ghost = kind in (Kind.CRASH_GHOST, Kind.RETRY_GHOST)
        seconds = rng.choice((0.5, 8.0, MOST_GHOST_S)) if is_ghost else rng.choice(STALLS_S)
        faults[rng.randrange(steps)] = Verdict(kind, seconds)
    return faults
