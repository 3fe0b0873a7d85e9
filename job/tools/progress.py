"""How far a run is, told from its plan, one listing of its markers and the heartbeats; never a request a shard."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

import msgspec

from job.errors import ObjectError, RunConflictError, StorageError
from job.plan.plan import Plan, read_plan
from job.run.heartbeat import Beat, heartbeats
from job.run.run import Run, find_named, newest_run
from job.run.spec import RunEnd
from job.storage.store import Store, read_if_there
from job.system.threads import map_in_threads
from job.worker.shards import marked_shards

ALIVE_S = 90.0
"""A worker beats every 30 s; one that has not for this long is silent."""

State = Literal["planning", "working", "stalled", "succeeded", "too_many_failed", "superseded"]


class PoolProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processes of a pool.

    Attributes:
        alive: With a heartbeat not older than 90 s.
        left: That have ended in order.
        silent: That have ended otherwise, or cannot reach the storage.
        images_per_s: Of those alive.
    """

    alive: int = 0
    left: int = 0
    silent: int = 0
    images_per_s: float = 0.0


class RunProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a run is.

    Attributes:
        run: Its name.
        state: `stalled`: it has not ended and nobody is at work.
        inputs_listed: Inputs that the planner saw; 0 before there is a plan.
        inputs_done_before: Of these, how many needed nothing.
        planned: Inputs in all shards.
        done: Inputs of the plan that have a result, as far as markers and heartbeats tell.
        failed: Inputs that failed, as far as heartbeats tell; exact once the run has ended.
        left: Inputs of the plan without a result.
        images_per_s: Of all workers alive.
        eta_s: Seconds to the end at this rate, or None.
        pools: Processes by pool.
        last_errors: Of the workers, newest heartbeat first, at most five.
        other_options: Options that change bytes and that earlier runs, whose results are kept, had otherwise.
    """

    run: str
    state: State
    inputs_listed: int = 0
    inputs_done_before: int = 0
    planned: int = 0
    done: int = 0
    failed: int = 0
    left: int = 0
    images_per_s: float = 0.0
    eta_s: float | None = None
    pools: dict[str, PoolProgress] = {}
    last_errors: tuple[str, ...] = ()
    other_options: tuple[str, ...] = ()


class _Seen(msgspec.Struct, frozen=True):
    """A heartbeat: whose, how old."""

    worker_id: str
    age_s: float
    beat: Beat

    @property
    def pool(self) -> str:
        return self.worker_id.rpartition("-")[0]

    @property
    def is_alive(self) -> bool:
        return self.age_s <= ALIVE_S and self.beat.activity != "left"


def read_progress(store: Store, run_name: str | None = None) -> RunProgress:
    """How far a run is.

    Args:
        store: The output.
        run_name: Name of the run, None for the newest.

    Raises:
        UsageError: No such run.
        RunConflictError: A heartbeat is not of this version.
    """
    run = newest_run(store) if run_name is None else find_named(store, run_name)
    plan, end, seen = read_plan(run), run.end(), _beats(run)
    rate = sum(one.beat.images_per_s for one in seen if one.is_alive)
    done, failed = _done_and_failed(run, plan, end, seen)
    planned = plan.inputs_planned if plan else 0
    left = max(0, planned - done)
    return RunProgress(
        run=run.name,
        state=_state(plan, end, seen),
        inputs_listed=plan.inputs_listed if plan else 0,
        inputs_done_before=plan.inputs_done if plan else 0,
        planned=planned,
        done=done,
        failed=failed,
        left=left,
        images_per_s=round(rate, 3),
        eta_s=round(left / rate, 1) if rate and left else None,
        pools=_pools(seen),
        other_options=plan.other_options if plan else (),
        last_errors=tuple(one.beat.last_error for one in seen if one.beat.last_error)[:5],
    )


def _beats(run: Run) -> list[_Seen]:
    """Newest first; one that is removed meanwhile is passed over."""
    listed = sorted(heartbeats(run), key=lambda item: -item.modified_s)
    now_s = _now_s(run.store) if listed else 0.0
    raws = map_in_threads(lambda item: read_if_there(run.store, item.key), listed)
    return [
        _Seen(item.key.rpartition("/")[2].rpartition("-")[0], now_s - item.modified_s, _decode(run, item.key, raw))
        for item, raw in zip(listed, raws, strict=True)
        if raw is not None
    ]


def _now_s(store: Store) -> float:
    """The store's clock; where it is read off a probe and this user may not write one, this machine's."""
    try:
        return store.now_s()
    except (ObjectError, StorageError):
        return time.time()


def _decode(run: Run, key: str, raw: bytes) -> Beat:
    try:
        return msgspec.json.decode(raw, type=Beat)
    except msgspec.DecodeError as exc:
        raise RunConflictError(
            f"{run.store.url}/{key} is not of this version: {exc}. Look with the version that does the run"
        ) from exc


def _done_and_failed(run: Run, plan: Plan | None, end: RunEnd | None, seen: Iterable[_Seen]) -> tuple[int, int]:
    if plan is None:
        return 0, 0
    if end is not None and end.outcome != "superseded":
        return plan.inputs_planned, end.failed
    sizes = {shard.name: shard.inputs for shard in plan.shards}
    marked = sum(sizes.get(name, 0) for name in marked_shards(run))
    annotated, failed = (sum(getattr(one.beat, name) for one in seen) for name in ("annotated", "failed"))
    return max(marked, min(plan.inputs_planned, annotated + failed)), min(failed, plan.inputs_planned)


def _state(plan: Plan | None, end: RunEnd | None, seen: Iterable[_Seen]) -> State:
    if end is not None:
        return end.outcome
    if not any(one.is_alive for one in seen):
        return "stalled"
    return "planning" if plan is None else "working"


def _pools(seen: Iterable[_Seen]) -> dict[str, PoolProgress]:
    """Keep the youngest process of each worker id; it replaced the older ones."""
    youngest: dict[str, _Seen] = {}
    for one in seen:
        youngest.setdefault(one.worker_id, one)
    pools: dict[str, list[_Seen]] = {}
    for one in youngest.values():
        pools.setdefault(one.pool, []).append(one)
    return {
        name: PoolProgress(
            alive=sum(one.is_alive for one in members),
            left=sum(one.beat.activity == "left" for one in members),
            silent=sum(not one.is_alive and one.beat.activity != "left" for one in members),
            images_per_s=round(sum(one.beat.images_per_s for one in members if one.is_alive), 3),
        )
        for name, members in sorted(pools.items())
    }
