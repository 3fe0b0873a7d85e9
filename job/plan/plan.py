"""The plan: which inputs this run does, cut into shards.

The planner streams both listings, writes shards into a folder with a nonce of its own, and `plan.json` last and
exclusively: of two planners one wins and the other uses its plan.
"""

from __future__ import annotations

import logging

import msgspec

from job.run.run import Run
from job.storage.store import read_if_there

logger = logging.getLogger(__name__)


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
