"""A process's shards: what is left of each, what has come of it, and when it is complete."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from job.journal import FAILED, ResultRow, ShardHistory, ShardJournal, read_history
from job.plan import Plan, PlannedInput, PlannedShard, read_shard
from job.run import Run

logger = logging.getLogger(__name__)

KILLS_BEFORE_CARE = 2
"""From the third attempt on, a shard is done one image at a time."""
INTENTS_BEFORE_BLAME = 2


class FailedInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of the failure table."""

    json: str
    reason: str


class Marker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`done/<shard>.json`: every key of the shard has a result.

    Attributes:
        attempt: Who wrote it.
        totals: Images by result.
        instances: Instances in the output by class.
        dropped: Instances left out, by why.
        failures: The failed inputs.
    """

    attempt: str
    totals: dict[str, int]
    instances: dict[str, int]
    dropped: dict[str, int]
    failures: tuple[FailedInput, ...]


@dataclass
class OpenShard:
    """A shard in this process's hands.

    Attributes:
        shard: Its line in the plan.
        journal: Where its rows go.
        history: What earlier attempts did.
        todo: Inputs without a result, in order; those that have ended workers last.
        results: The row of every input that has one.
        is_careful: Whether it has to be done one image at a time.
    """

    shard: PlannedShard
    journal: ShardJournal
    history: ShardHistory
    todo: list[PlannedInput]
    results: dict[str, ResultRow] = field(default_factory=dict)

    @property
    def is_careful(self) -> bool:
        """Whether workers have died on it so often that images are done one at a time."""
        return len(self.history.killed_attempts) >= KILLS_BEFORE_CARE

    @property
    def is_complete(self) -> bool:
        """Whether every input has a result."""
        return len(self.results) == self.shard.inputs

    def is_suspect(self, planned: PlannedInput) -> bool:
        """Whether this input has ended workers twice, as far as the intent rows tell."""
        return len(self.history.open_intents.get(planned.json, [])) >= INTENTS_BEFORE_BLAME

    def latest_intent_s(self, planned: PlannedInput) -> float:
        """Store's time of the youngest intent row of an input."""
        return max(self.history.open_intents[planned.json])

    def add(self, row: ResultRow) -> None:
        """Take a result."""
        self.results[row.json] = row
        self.journal.add(row)

    def marker(self, attempt: str) -> Marker:
        """Sum up a complete shard."""
        rows = self.results.values()
        instances: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        for row in rows:
            instances.update({name: len(scores) for name, scores in row.scores.items()})
            dropped.update(row.dropped)
        return Marker(
            attempt=attempt,
            totals=dict(Counter(row.result for row in rows)),
            instances=dict(instances),
            dropped=dict(dropped),
            failures=tuple(FailedInput(json=row.json, reason=row.reason) for row in rows if row.result == FAILED),
        )


def own_shards(plan: Plan, index: int, num_indexes: int) -> Sequence[PlannedShard]:
    """The contiguous block of shards that an index owns; blocks differ by at most one shard."""
    count = len(plan.shards)
    return plan.shards[count * index // num_indexes : count * (index + 1) // num_indexes]


def open_shards(
    run: Run,
    plan: Plan,
    shards: Sequence[PlannedShard],
    attempt: str,
    on_earlier: Callable[[Sequence[ResultRow]], None],
) -> Iterator[OpenShard]:
    """Take up shards one after the other; each is read when its turn comes.

    Args:
        run: The run.
        plan: Its plan.
        shards: Shards without a marker.
        attempt: Name of this process.
        on_earlier: Called with the rows of earlier attempts on a shard.
    """
    for shard in shards:
        open_shard = _open(run, plan, shard, attempt)
        on_earlier(list(open_shard.results.values()))
        yield open_shard


def marked_shards(run: Run) -> Iterator[str]:
    """Names of the shards that are complete, ascending; one listing."""
    for found in run.store.walk(run.key("done")):
        yield found.key.rpartition("/")[2].removesuffix(".json")


def write_marker(run: Run, open_shard: OpenShard, attempt: str) -> None:
    """Store the last rows, then the marker."""
    open_shard.journal.leave()
    run.store.flush()
    run.store.create(run.key("done", f"{open_shard.shard.name}.json"), msgspec.json.encode(open_shard.marker(attempt)))


def read_marker(run: Run, shard_name: str) -> Marker:
    """A complete shard's marker."""
    return msgspec.json.decode(run.store.read(run.key("done", f"{shard_name}.json")), type=Marker)


def _open(run: Run, plan: Plan, shard: PlannedShard, attempt: str) -> OpenShard:
    history = read_history(run, shard.name)
    planned = read_shard(run, plan, shard)
    open_shard = OpenShard(
        shard=shard,
        journal=ShardJournal(run, shard.name, attempt),
        history=history,
        todo=[item for item in planned if item.json not in history.results],
        results=dict(history.results),
    )
    open_shard.todo.sort(key=open_shard.is_suspect)
    if open_shard.is_careful and open_shard.todo:
        logger.warning(
            "Shard %s has ended %d workers: doing its %d images one at a time",
            shard.name,
            len(history.killed_attempts),
            len(open_shard.todo),
        )
    open_shard.journal.start()
    return open_shard
