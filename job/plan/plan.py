"""The plan: which inputs this run does, cut into shards.

The planner streams both listings, writes shards into a folder with a nonce of its own, and `plan.json` last and
exclusively: of two planners one wins and the other uses its plan.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

import msgspec

from job.plan.selection import Selection
from job.run.run import Run, check_not_over, options_that_differ
from job.storage.store import read_if_there
from job.system.threads import iter_in_threads

logger = logging.getLogger(__name__)

SHARDS_PER_INDEX = 8
LARGEST_SHARD = 1000
_WRITING_THREADS = 8
LARGEST_HELD_PLAN = 1_000_000
"""Plans up to this many keys are held back until their size is known, so that shards can be cut to fit."""


class PlannedInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a shard.

    Attributes:
        json: Key of the JSON.
        image: Key of the image, None when there is none; left out when it was not looked up.
        prior: Whether the output holds a JSON of this key; left out when it was not looked up.
        problem: Why the input cannot even be named; it fails with this reason.
        forced: An older run was interrupted on it: to be done whatever the output holds.
    """

    json: str
    image: str | msgspec.UnsetType | None = msgspec.UNSET
    prior: bool | msgspec.UnsetType = msgspec.UNSET
    problem: str = ""
    forced: bool = False


class PlannedShard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A shard.

    Attributes:
        name: Its number, six digits.
        inputs: How many it has.
        forced: How many of them are to be done whatever the output holds.
    """

    name: str
    inputs: int
    forced: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`plan.json`.

    Attributes:
        nonce: Of the folder that holds the shards.
        shards: In order.
        inputs_listed: JSONs in the input.
        inputs_done: Of these, how many were done before and are not planned.
        images_without_json: Images that are no input.
        other_options: Options that change bytes and that earlier runs, whose results are kept, had otherwise.
    """

    nonce: str
    shards: tuple[PlannedShard, ...]
    inputs_listed: int
    inputs_done: int
    images_without_json: int
    other_options: tuple[str, ...] = ()

    @property
    def inputs_planned(self) -> int:
        """Inputs in all shards."""
        return sum(shard.inputs for shard in self.shards)


def read_plan(run: Run) -> Plan | None:
    """The run's plan, or None while there is none."""
    raw = read_if_there(run.store, run.key("plan.json"))
    return None if raw is None else msgspec.json.decode(raw, type=Plan)


def read_shard(run: Run, plan: Plan, shard: PlannedShard) -> list[PlannedInput]:
    """The inputs of a shard, in order."""
    raw = run.store.read(run.key(f"plan-{plan.nonce}", f"{shard.name}.jsonl"))
    return msgspec.json.Decoder(PlannedInput).decode_lines(raw)


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """How large shards are.

    Attributes:
        num_indexes: Processes that share the shards; each gets at least eight where there are enough inputs.
        shard_size: Inputs in a shard, or None to choose.
    """

    num_indexes: int = 1
    shard_size: int | None = None

    def size_for(self, count: int) -> int:
        """Inputs in a shard of a plan of so many."""
        chosen = min(LARGEST_SHARD, count // (SHARDS_PER_INDEX * self.num_indexes))
        return self.shard_size or max(1, chosen)


def make_plan(run: Run, selection: Selection, sizing: Sizing) -> Plan:
    """List input and output, and write the plan unless another planner was first.

    Args:
        run: The run to plan.
        selection: What is to do; not consumed yet.
        sizing: How large shards are.

    Returns:
        The plan that counts.

    Raises:
        RunConflictError: The run was superseded while it was planned.
    """
    nonce = secrets.token_hex(4)
    shards = tuple(_write_shards(run, nonce, selection.inputs(), sizing))
    plan = Plan(
        nonce=nonce,
        shards=shards,
        inputs_listed=selection.inputs_listed,
        inputs_done=selection.inputs_done,
        images_without_json=selection.counts.images_without_json,
        other_options=options_that_differ(run) if selection.inputs_done else (),
    )
    run.store.flush()
    check_not_over(run)
    run.store.create(run.key("plan.json"), msgspec.json.encode(plan))
    return read_plan(run) or plan


def _write_shards(run: Run, nonce: str, inputs: Iterator[PlannedInput], sizing: Sizing) -> Iterator[PlannedShard]:
    """Keys are held back as lines, which take a third of the memory of objects."""
    encode = msgspec.json.Encoder().encode
    lines = (encode(planned) for planned in inputs)
    held = list(islice(lines, LARGEST_HELD_PLAN))
    size = sizing.size_for(len(held))

    def write(numbered: tuple[int, list[bytes]]) -> PlannedShard:
        number, batch = numbered
        forced = sum(b'"forced":true' in line for line in batch)
        shard = PlannedShard(name=f"{number:06d}", inputs=len(batch), forced=forced)
        run.store.put(run.key(f"plan-{nonce}", f"{shard.name}.jsonl"), b"\n".join(batch) + b"\n")
        return shard

    stream = chain(_emptied(held), lines)
    batches = enumerate(iter(lambda: list(islice(stream, size)), []))
    return iter_in_threads(write, batches, threads=_WRITING_THREADS)


def _emptied(held: list[bytes]) -> Iterator[bytes]:
    """Each line once, forgotten as it is handed out."""
    held.reverse()
    while held:
        yield held.pop()
