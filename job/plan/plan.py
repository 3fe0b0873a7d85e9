"""The plan: the inputs of a run, cut into shards.

The planner streams both listings and writes shards into a folder with its own nonce. It creates `plan.json` last and
exclusively: the loser of a race of two planners uses the winner's plan.
"""

from __future__ import annotations

import logging

import msgspec

from job.run.decoding import decoding
from job.run.run import Run
from job.storage.store import read_if_there

logger = logging.getLogger(__name__)


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
        name: Its number, six digits.
        inputs: Number of its inputs.
        forced: Number of its inputs that must be redone.
    """

    name: str
    inputs: int
    forced: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`plan.json`.

    Attributes:
        nonce: Nonce of the folder that holds the shards.
        shards: In order.
        inputs_listed: Number of JSON files in the input.
        inputs_done: Number of these that were done before and are not planned.
        images_without_json: Number of images without a JSON file; where they are inputs, of those that fit.
        other_options: Options that change bytes and differ in earlier runs whose results are kept.
    """

    nonce: str
    shards: tuple[PlannedShard, ...]
    inputs_listed: int
    inputs_done: int
    images_without_json: int
    other_options: tuple[str, ...] = ()

    @property
    def inputs_planned(self) -> int:
        """Number of inputs in all shards."""
        return sum(shard.inputs for shard in self.shards)


def read_plan(run: Run) -> Plan | None:
    """The run's plan, or None before planning ends."""
    key = run.key("plan.json")
    raw = read_if_there(run.store, key)
    if raw is None:
        return None
    with decoding(f"{run.store.url}/{key}"):
        return msgspec.json.decode(raw, type=Plan)


def first_keys(run: Run, count: int) -> frozenset[str]:
    """JSON keys of the first `count` inputs of the run's plan; reads only the shards that hold them."""
    plan, keys = read_plan(run), list[str]()
    if plan is None:
        return frozenset()
    for shard in plan.shards:
        if len(keys) >= count:
            break
        keys += [planned.json for planned in read_shard(run, plan, shard)]
    return frozenset(keys[:count])


def read_shard(run: Run, plan: Plan, shard: PlannedShard) -> list[PlannedInput]:
    """The inputs of a shard, in order."""
    key = run.key(f"plan-{plan.nonce}", f"{shard.name}.jsonl")
    with decoding(f"{run.store.url}/{key}"):
        return msgspec.json.Decoder(PlannedInput).decode_lines(run.store.read(key))
