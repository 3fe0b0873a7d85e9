"""The shards of a process: pending inputs, results and completion."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol

import msgspec

from job.plan.plan import Plan, PlannedInput, PlannedShard, marked_shard, read_shard, shards_of_block
from job.run.decoding import decoding
from job.run.journal import FAILED, ResultRow, ShardHistory, ShardJournal, keep_better, read_history
from job.run.options import WorkerOptions
from job.run.run import Run

logger = logging.getLogger(__name__)

KILLS_BEFORE_SERIAL = 2
"""From the third attempt on, a shard is processed one image at a time."""
INTENTS_BEFORE_FAILED = 2


class Listener(Protocol):
    """Receives the results of shards."""

    def add(self, shard: PlannedShard, row: ResultRow) -> None:
        """Receive the first result of an input, from this process."""
        ...

    def add_others(self, shard: PlannedShard, results: Iterable[str]) -> None:
        """Receive results of other processes for inputs that had none."""
        ...

    def marked(self, shard: PlannedShard) -> None:
        """The shard is complete and has its marker."""
        ...


class FailedInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of the failure table."""

    json: str
    reason: str


class Marker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`done/<shard>.json`: every key of the shard has a result.

    Attributes:
        attempt: The process that wrote it.
        totals: Images by result.
        instances: Instances in the output by class.
        dropped: Instances left out, by reason.
        failures: The failed inputs.
    """

    attempt: str
    totals: dict[str, int]
    instances: dict[str, int]
    dropped: dict[str, int]
    failures: tuple[FailedInput, ...]


_MARKER = msgspec.json.Decoder(Marker)


@dataclass
class OpenShard:
    """A shard that this process works on.

    Attributes:
        shard: Its entry in the plan.
        journal: Writes the journal rows of this process.
        history: Journal rows of other processes that were read so far.
        pending: Inputs without a result when it was opened, in order; those that crashed workers are last.
        results: The valid result row of each input that has one.
        is_marked: Whether this process has written its marker.
    """

    shard: PlannedShard
    journal: ShardJournal
    history: ShardHistory
    pending: list[PlannedInput]
    results: dict[str, ResultRow] = field(default_factory=dict)
    is_marked: bool = False

    @property
    def is_serial(self) -> bool:
        """Whether so many workers crashed on it that images are processed one at a time."""
        return len(self.history.killed_process_ids) >= KILLS_BEFORE_SERIAL

    @property
    def is_complete(self) -> bool:
        """Whether every input has a result."""
        return len(self.results) == self.shard.inputs

    def is_crash_suspect(self, planned: PlannedInput) -> bool:
        """Whether this input crashed two workers according to the intent rows."""
        return len(self.history.open_intents(planned.json)) >= INTENTS_BEFORE_FAILED

    def latest_intent_s(self, planned: PlannedInput) -> float:
        """Time of the newest intent row of an input, by the clock of the store."""
        return max(self.history.open_intents(planned.json))

    def add(self, row: ResultRow, instance_lines: bytes = b"") -> bool:
        """Add a result of this process and the rows of its instances; returns whether it is the first of its input."""
        is_first = row.json not in self.results
        keep_better(self.results, row)
        self.journal.add(row, instance_lines)
        return is_first

    def read_others(self) -> list[ResultRow]:
        """Read new journal rows of other processes; returns the rows of inputs that had none."""
        new = self.journal.read_others(self.history)
        fresh = [row for row in new if row.json not in self.results]
        for row in new:
            keep_better(self.results, row)
        return list({row.json: row for row in fresh}.values())

    def marker(self, process_id: str) -> Marker:
        """Sum up a complete shard."""
        rows = self.results.values()
        instances: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        for row in rows:
            instances.update({name: len(scores) for name, scores in row.scores.items()})
            dropped.update(row.dropped)
        return Marker(
            attempt=process_id,
            totals=dict(Counter(row.result for row in rows)),
            instances=dict(instances),
            dropped=dict(dropped),
            failures=tuple(FailedInput(json=row.json, reason=row.reason) for row in rows if row.result == FAILED),
        )


def assigned_shards(run: Run, plan: Plan, options: WorkerOptions) -> Sequence[PlannedShard]:
    """The contiguous block of shards that an index owns, in the order of processing.

    Blocks have equal numbers of inputs, but for a shard. `order="backward"` mirrors the order: index 0 owns the last
    block.
    """
    index = options.index
    if options.order == "backward":
        index = options.num_indexes - 1 - index
    block = shards_of_block(run, plan, index, options.num_indexes)
    return block[::-1] if options.order == "backward" else block


def open_shards(
    run: Run,
    plan: Plan,
    shards: Iterable[PlannedShard | None],
    options: WorkerOptions,
    listener: Listener,
) -> Iterator[OpenShard | None]:
    """Open shards one after the other; skip shards that have a marker.

    Args:
        run: The run.
        plan: Its plan.
        shards: Shards that had no marker at the last listing; None, which is passed on, where there is none for now.
        options: This process, and the order of the inputs.
        listener: Receives the results of earlier and of other processes.
    """
    for shard in shards:
        if shard is None:
            yield None
            continue
        options.watchdog.touch()
        if is_marked(run, shard):
            listener.add_others(shard, Counter(read_marker(run, shard.name).totals).elements())
            listener.marked(shard)
            continue
        open_shard = _open(run, plan, shard, options)
        listener.add_others(shard, [row.result for row in open_shard.results.values()])
        yield open_shard


def marked_shards(run: Run, first: str = "") -> Iterator[str]:
    """Names of the complete shards from shard `first` on, ascending; one listing."""
    before_first = run.key("done", first) if first else ""  # a name without its suffix sorts before it
    for found in run.store.list(run.key("done"), after=before_first):
        yield marked_shard(found)


def completed_shards_in(run: Run, shards: Sequence[PlannedShard]) -> set[str]:
    """Names of the complete shards among neighbouring ones; lists only their range."""
    if not shards:
        return set()
    names = {shard.name for shard in shards}
    last = max(names)
    marked = takewhile(lambda name: name <= last, marked_shards(run, min(names)))
    return {name for name in marked if name in names}


def is_marked(run: Run, shard: PlannedShard) -> bool:
    """Whether a shard is complete; one request."""
    return run.store.stat(_marker_key(run, shard.name)) is not None


def are_all_marked(run: Run, plan: Plan) -> bool:
    """Whether every shard of the plan is complete; stops at the first gap."""
    marked = marked_shards(run)
    return all(next(marked, None) == name for name in plan.shard_names())


def write_marker(run: Run, open_shard: OpenShard, process_id: str) -> None:
    """Store the last rows, then the marker."""
    open_shard.journal.write()
    run.store.flush()
    run.store.create(_marker_key(run, open_shard.shard.name), msgspec.json.encode(open_shard.marker(process_id)))
    open_shard.is_marked = True


def read_marker(run: Run, shard_name: str) -> Marker:
    """A complete shard's marker."""
    key = _marker_key(run, shard_name)
    with decoding(f"{run.store.url}/{key}"):
        return _MARKER.decode(run.store.read(key))


def _marker_key(run: Run, shard_name: str) -> str:
    return run.key("done", f"{shard_name}.json")


def _open(run: Run, plan: Plan, shard: PlannedShard, options: WorkerOptions) -> OpenShard:
    history = read_history(run, shard.name)
    planned = read_shard(run, plan, shard)
    if options.order == "backward":
        planned.reverse()
    open_shard = OpenShard(
        shard=shard,
        journal=ShardJournal(run, shard.name, options.process_id),
        history=history,
        pending=[item for item in planned if item.json not in history.results],
        results=dict(history.results),
    )
    open_shard.pending.sort(key=open_shard.is_crash_suspect)
    if open_shard.is_serial and open_shard.pending:
        logger.warning(
            "Shard %s crashed %d workers: processing its %d images one at a time",
            shard.name,
            len(history.killed_process_ids),
            len(open_shard.pending),
        )
    open_shard.journal.start()
    return open_shard
