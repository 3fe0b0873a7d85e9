"""Shards of a plan: their sizes, and the writing of shards and parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from job.plan.plan import PlannedShard, PlanPart, shard_name
from job.run.journal import encode_lines
from job.run.run import Run
from job.system.threads import iter_in_threads

SHARDS_PER_INDEX = 8
LARGEST_SHARD = 1000
SHARDS_PER_PART = 1000
LARGEST_HELD_PLAN = 1_000_000
"""Plans up to this many keys are held in memory, so that their number determines the size of shards."""
_WRITING_THREADS = 8
_FORCED = b'"forced":true'
"""In an encoded input; a quote inside a key is escaped, so no key contains it."""


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The size of shards.

    The number of inputs is unknown while a long listing is read. So sizes grow with the plan: the size at input p is
    that of a plan of p inputs, and no shard is larger than an eighth of the share of an index, whatever follows.

    Attributes:
        num_indexes: Processes that share the shards; each gets at least eight if there are enough inputs.
        shard_size: Inputs in a shard, or None for the default.
        largest: Inputs in the largest shard.
        held: Inputs that are held in memory before the first shard is written.
        part_shards: Shards in a part.
    """

    num_indexes: int = 1
    shard_size: int | None = None
    largest: int = LARGEST_SHARD
    held: int = LARGEST_HELD_PLAN
    part_shards: int = SHARDS_PER_PART

    def size_for(self, count: int) -> int:
        """Inputs in a shard of a plan with at least `count` inputs."""
        chosen = min(self.largest, count // (SHARDS_PER_INDEX * self.num_indexes))
        return self.shard_size or max(1, chosen)


def write_shards(run: Run, nonce: str, lines: Iterator[bytes], sizing: Sizing) -> Iterator[PlanPart]:
    """Write shards and parts.

    Args:
        run: The run.
        nonce: Of the folder of the plan.
        lines: Encoded inputs, in order; held lines take a third of the memory of objects.
        sizing: The size of shards.

    Yields:
        The parts that are written, in order.
    """
    folder = f"plan-{nonce}"

    def write(numbered: tuple[int, list[bytes]]) -> PlannedShard:
        number, batch = numbered
        data = b"\n".join(batch) + b"\n"
        shard = PlannedShard(name=shard_name(number), inputs=len(batch), forced=data.count(_FORCED))
        run.store.put(run.key(folder, f"{shard.name}.jsonl"), data)
        return shard

    shards = iter_in_threads(write, enumerate(_batches(lines, sizing)), threads=_WRITING_THREADS)
    for group in iter(lambda: list(islice(shards, sizing.part_shards)), []):
        part = PlanPart(
            name=group[0].name,
            shards=len(group),
            inputs=sum(shard.inputs for shard in group),
            forced=sum(shard.forced for shard in group),
        )
        run.store.put(run.key(folder, part.file), encode_lines(group))
        yield part


def _batches(lines: Iterator[bytes], sizing: Sizing) -> Iterator[list[bytes]]:
    """Cut the lines into shards."""
    held = list(islice(lines, sizing.held))
    count, position = len(held), 0
    stream = chain(_drained(held), lines)
    while batch := list(islice(stream, sizing.size_for(max(count, position)))):
        yield batch
        position += len(batch)


def _drained(held: list[bytes]) -> Iterator[bytes]:
    """Yield each line once and free its memory."""
    held.reverse()
    while held:
        yield held.pop()
