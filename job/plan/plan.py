"""The plan: the inputs of a run, cut into shards.

The planner streams both listings and writes shards, and lists of 1,000 shards each (parts), into a folder with its own
nonce. It creates `plan.json` last and exclusively: the loser of a race of two planners uses the winner's plan. A
process reads `plan.json` and the parts that hold its shards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from job.errors import UsageError
from job.run.decoding import decoding
from job.run.run import Run
from job.storage.store import StoredObject, read_if_there
from job.system.threads import iter_in_threads

logger = logging.getLogger(__name__)

_NAME_DIGITS = 10
"""Names of shards are as long as 10 billion shards of one input need, so that their order is the plan's order."""


class PlannedInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input of a shard.

    Attributes:
        json: Key of the JSON.
        image: Key of the image, None if it does not exist; unset if the planner did not check.
        prior: Whether the output has a JSON of this key; unset if the planner did not check.
        problem: Reason for which the input fails, when its key is not usable.
        forced: Whether it must be redone, because an older run was interrupted on it.
        no_json: Whether the input has only the image: a minimal JSON is written (`missing_json`).
    """

    json: str
    image: str | msgspec.UnsetType | None = msgspec.UNSET
    prior: bool | msgspec.UnsetType = msgspec.UNSET
    problem: str = ""
    forced: bool = False
    no_json: bool = False


class PlannedShard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A shard.

    Attributes:
        name: Its number, ten digits (six in a plan of an earlier version).
        inputs: Number of its inputs.
        forced: Number of its inputs that must be redone.
    """

    name: str
    inputs: int
    forced: int = 0


class PlanPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Consecutive shards of a plan; their list is `plan-<nonce>/part-<name>.jsonl`, a `PlannedShard` a line.

    Attributes:
        name: Name of its first shard; empty for all shards of a plan of an earlier version.
        shards: Number of its shards.
        inputs: Number of their inputs.
        forced: Number of their inputs that must be redone.
    """

    name: str
    shards: int
    inputs: int
    forced: int = 0

    @property
    def file(self) -> str:
        """Name of its list in the folder of the plan."""
        return f"part-{self.name}.jsonl"

    def reaches(self, name: str) -> bool:
        """Whether a shard of this name is in this part or precedes it."""
        return not self.name or name <= shard_name(int(self.name) + self.shards - 1)

    def shard_names(self) -> Iterator[str]:
        """Names of its shards, ascending."""
        first = int(self.name)
        return (shard_name(number) for number in range(first, first + self.shards))


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`plan.json`.

    Attributes:
        nonce: Nonce of the folder that holds shards and parts.
        parts: In order; together they hold every shard.
        shards: Of a plan of an earlier version, which has no parts: all shards, in order.
        inputs_listed: Number of JSON files in the input.
        inputs_done: Number of these that were done before and are not planned.
        images_without_json: Number of images without a JSON file; where they are inputs, of those that fit.
        other_options: Options that change bytes and differ in earlier runs whose results are kept.
    """

    nonce: str
    inputs_listed: int
    inputs_done: int
    images_without_json: int
    parts: tuple[PlanPart, ...] = ()
    shards: tuple[PlannedShard, ...] = ()
    other_options: tuple[str, ...] = ()

    @property
    def inputs_planned(self) -> int:
        """Number of inputs in all shards."""
        return sum(part.inputs for part in self.all_parts)

    @property
    def shards_planned(self) -> int:
        """Number of shards."""
        return sum(part.shards for part in self.all_parts)

    @property
    def all_parts(self) -> tuple[PlanPart, ...]:
        """The parts; one part without a name for the shards of a plan of an earlier version."""
        if not self.shards:
            return self.parts
        inputs, forced = sum(shard.inputs for shard in self.shards), sum(shard.forced for shard in self.shards)
        return (PlanPart(name="", shards=len(self.shards), inputs=inputs, forced=forced),)

    def shard_names(self) -> Iterator[str]:
        """Names of all shards in the order of a listing; for names of one length this is the order of the plan."""
        return chain(
            sorted(shard.name for shard in self.shards),
            chain.from_iterable(part.shard_names() for part in self.parts),
        )


_INPUT = msgspec.json.Decoder(PlannedInput)
_SHARD = msgspec.json.Decoder(PlannedShard)
_PLAN = msgspec.json.Decoder(Plan)


def shard_name(number: int) -> str:
    """The name of a shard.

    Raises:
        UsageError: The plan has too many shards.
    """
    name = f"{number:0{_NAME_DIGITS}d}"
    if len(name) > _NAME_DIGITS:
        raise UsageError(f"the plan has more than {10**_NAME_DIGITS:,} shards: give a larger --shard_size")
    return name


def read_plan(run: Run) -> Plan | None:
    """The run's plan, or None before planning ends."""
    key = run.key("plan.json")
    raw = read_if_there(run.store, key)
    if raw is None:
        return None
    with decoding(f"{run.store.url}/{key}"):
        return _PLAN.decode(raw)


def read_part(run: Run, plan: Plan, part: PlanPart) -> Sequence[PlannedShard]:
    """The shards of a part, in order; one request."""
    if not part.name:
        return plan.shards
    key = run.key(f"plan-{plan.nonce}", part.file)
    with decoding(f"{run.store.url}/{key}"):
        return _SHARD.decode_lines(run.store.read(key))


def iter_shards(run: Run, plan: Plan) -> Iterator[PlannedShard]:
    """All shards of the plan, in order; a few parts are in memory at a time."""
    for shards in iter_in_threads(lambda part: read_part(run, plan, part), plan.all_parts):
        yield from shards


def shards_of_block(run: Run, plan: Plan, index: int, num_indexes: int) -> list[PlannedShard]:
    """The contiguous block of shards of an index, in order; reads the parts that hold it.

    A shard is in the block that its middle is in, when the inputs of the plan are cut into equal blocks. Blocks of a
    plan of an earlier version have equal numbers of shards, as that version cut them.

    Args:
        run: The run.
        plan: Its plan.
        index: 0 to num_indexes - 1.
        num_indexes: Number of blocks.
    """
    if plan.shards:
        count = len(plan.shards)
        return list(plan.shards[count * index // num_indexes : count * (index + 1) // num_indexes])
    total, position = plan.inputs_planned, 0
    first, end = total * index, total * (index + 1)  # in units of one input / num_indexes
    overlapping: list[tuple[int, PlanPart]] = []
    for part in plan.parts:
        if position * num_indexes < end and (position + part.inputs) * num_indexes > first:
            overlapping.append((position, part))
        position += part.inputs
    block: list[PlannedShard] = []
    lists = iter_in_threads(lambda item: read_part(run, plan, item[1]), overlapping)
    for (position, _), shards in zip(overlapping, lists, strict=True):
        for shard in shards:
            if 2 * first <= (2 * position + shard.inputs) * num_indexes < 2 * end:
                block.append(shard)
            position += shard.inputs
    return block


def parts_with_markers(run: Run, plan: Plan) -> Iterator[tuple[PlanPart, list[StoredObject]]]:
    """Each part of the plan with the markers of its complete shards; one listing."""
    markers = run.store.list(run.key("done"))
    marker = next(markers, None)
    for part in plan.all_parts:
        found: list[StoredObject] = []
        while marker is not None and part.reaches(marked_shard(marker)):
            found.append(marker)
            marker = next(markers, None)
        yield part, found


def marked_shard(marker: StoredObject) -> str:
    """Name of the shard of a marker."""
    return marker.key.rpartition("/")[2].removesuffix(".json")


def first_keys(run: Run, count: int) -> frozenset[str]:
    """JSON keys of the first `count` inputs of the run's plan; reads only the shards that hold them."""
    plan, keys = read_plan(run), list[str]()
    if plan is None:
        return frozenset()
    for shard in chain.from_iterable(read_part(run, plan, part) for part in plan.all_parts):
        if len(keys) >= count:
            break
        keys += [planned.json for planned in read_shard(run, plan, shard)]
    return frozenset(keys[:count])


def read_shard(run: Run, plan: Plan, shard: PlannedShard) -> list[PlannedInput]:
    """The inputs of a shard, in order."""
    key = run.key(f"plan-{plan.nonce}", f"{shard.name}.jsonl")
    with decoding(f"{run.store.url}/{key}"):
        return _INPUT.decode_lines(run.store.read(key))
