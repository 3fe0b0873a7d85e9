"""The plan: which inputs this run does, cut into shards.

The planner streams both listings, writes shards into a folder with a nonce of its own, and `plan.json` last and
exclusively: of two planners one wins and the other uses its plan.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import msgspec

from job.journal import encode_lines, read_history
from job.keys import key_problem, printable
from job.pairing import ListedInput, PairingCounts, pair_listings
from job.run import Run, check_not_over
from job.store import PRIVATE_FOLDER, Store, read_if_there

logger = logging.getLogger(__name__)

SHARDS_PER_INDEX = 8
LARGEST_SHARD = 1000
LARGEST_HELD_PLAN = 1_000_000
"""Plans up to this many keys are held back until their size is known, so that shards can be cut to fit."""


class PlannedInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a shard.

    Attributes:
        json: Key of the JSON.
        image: Key of the image, None when there is none; left out when it was not looked up.
        prior: Whether the output holds a JSON of this key; left out when it was not looked up.
        problem: Why the input cannot even be named; it fails with this reason.
        forced: An earlier override run was interrupted on it: to be done whatever the output holds.
    """

    json: str
    image: str | msgspec.UnsetType | None = msgspec.UNSET
    prior: bool | msgspec.UnsetType = msgspec.UNSET
    problem: str = ""
    forced: bool = False


class PlannedShard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A shard: its name (its number, six digits) and how many inputs it has."""

    name: str
    inputs: int


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`plan.json`.

    Attributes:
        nonce: Of the folder that holds the shards.
        shards: In order.
        inputs_listed: JSONs in the input.
        inputs_done: Of these, how many were done before and are not planned.
        images_without_json: Images that are no input.
    """

    nonce: str
    shards: tuple[PlannedShard, ...]
    inputs_listed: int
    inputs_done: int
    images_without_json: int

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


def make_plan(run: Run, source: Store, forced: frozenset[str], num_indexes: int = 1) -> Plan:
    """List input and output, and write the plan unless another planner was first.

    Args:
        run: The run to plan.
        source: The input.
        forced: Keys to do whatever the output holds (an override run was interrupted on them).
        num_indexes: Processes that will share the shards; each gets at least eight where there are enough inputs.

    Returns:
        The plan that counts.

    Raises:
        RunConflictError: The run was superseded while it was planned.
    """
    selection = Selection(run, source, forced)
    nonce = secrets.token_hex(4)
    shards = tuple(_write_shards(run, nonce, selection.inputs(), num_indexes))
    plan = Plan(
        nonce=nonce,
        shards=shards,
        inputs_listed=selection.inputs_listed,
        inputs_done=selection.inputs_done,
        images_without_json=selection.counts.images_without_json,
    )
    run.store.flush()
    check_not_over(run)
    run.store.create(run.key("plan.json"), msgspec.json.encode(plan))
    return read_plan(run) or plan


class Selection:
    """What a run selects from the listings; its counts are true once `inputs` is consumed."""

    def __init__(self, run: Run, source: Store, forced: frozenset[str]) -> None:
        self._run = run
        self._source = source
        self._forced = forced
        self.inputs_listed = 0
        self.inputs_done = 0
        self.counts = PairingCounts()

    def inputs(self) -> Iterator[PlannedInput]:
        """The inputs to do, ascending; the listing goes on to its end even when the limit is reached."""
        left = self._run.spec.limit
        for listed in self._listed():
            self.inputs_listed += 1
            if listed.is_done and not self._run.spec.override and listed.json not in self._forced:
                self.inputs_done += 1
            elif left is None or left > 0:
                left = None if left is None else left - 1
                yield _planned(listed, listed.json in self._forced)
        for key in self.counts.images_without_json_keys:
            logger.debug("No JSON for image %s/%s: not an input", self._source.url, printable(key))

    def _listed(self) -> Iterator[ListedInput]:
        return pair_listings(
            (found.key for found in self._source.walk(skip=PRIVATE_FOLDER)),
            (found.key for found in self._run.store.walk(skip=PRIVATE_FOLDER)),
            needs_image=self._run.spec.image_mode == "copy",
            counts=self.counts,
        )


def interrupted_overrides(older_runs: Iterable[Run]) -> frozenset[str]:
    """Keys of unfinished runs that were being overridden and have no stored row.

    Their masks may be new while their JSONs are still old, and no listing shows it.
    """
    forced: set[str] = set()
    for run in older_runs:
        plan = read_plan(run)
        if plan is None:
            continue
        started = set(run.store.folders(run.key("journal")))
        for shard in plan.shards:
            may_be_torn = run.spec.override and shard.name in started
            done = read_history(run, shard.name).results if shard.name in started else {}
            forced.update(
                planned.json
                for planned in read_shard(run, plan, shard)
                if (may_be_torn or planned.forced) and planned.json not in done
            )
    return frozenset(forced)


def _planned(listed: ListedInput, forced: bool) -> PlannedInput:
    problem = key_problem(listed.json) or (key_problem(listed.image) if listed.image else None)
    if problem:
        return PlannedInput(json=printable(listed.json), image=None, prior=False, problem=problem)
    return PlannedInput(json=listed.json, image=listed.image, prior=listed.has_prior, forced=forced)


def _write_shards(run: Run, nonce: str, inputs: Iterator[PlannedInput], num_indexes: int) -> Iterator[PlannedShard]:
    held = list(islice(inputs, LARGEST_HELD_PLAN))
    size = max(1, min(LARGEST_SHARD, len(held) // (SHARDS_PER_INDEX * num_indexes)))
    stream = chain(held, inputs)
    number = 0
    while batch := list(islice(stream, size)):
        name = f"{number:06d}"
        run.store.put(run.key(f"plan-{nonce}", f"{name}.jsonl"), encode_lines(batch))
        yield PlannedShard(name=name, inputs=len(batch))
        number += 1
