"""Progress of a run, from its plan, one listing of its markers, and the heartbeats; no request per shard."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from job.errors import ObjectError, StorageError
from job.plan.plan import Plan, PlanPart, marked_shard, parts_with_markers, read_part, read_plan
from job.run.heartbeat import Beat, heartbeats, read_beat
from job.run.run import Run, find_named, newest_run
from job.run.spec import RunEnd
from job.storage.store import Store, StoredObject
from job.system.threads import iter_in_threads, map_in_threads

ALIVE_S = 90.0
"""A worker writes a heartbeat every 30 s; one without a heartbeat for this long counts as silent."""

State = Literal[
    "planning", "planned", "working", "interrupted", "stalled", "succeeded", "too_many_failed", "superseded"
]  # fmt: skip
_PLAN_POOL = "plan"
"""The pool of `sam3-annotate plan`, whose process only plans."""


class PoolProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processes of a pool.

    Attributes:
        alive: With a heartbeat at most 90 s old.
        left: Exited in order.
        silent: Exited otherwise, or without access to the storage.
        images_per_s: Of those alive.
    """

    alive: int = 0
    left: int = 0
    silent: int = 0
    images_per_s: float = 0.0


class RunProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Progress of a run.

    Attributes:
        run: Its name.
        state: `planned`: there is a plan and no worker has started. `interrupted`: work is left and all processes
            exited in order. `stalled`: work is left, no process is alive, and some did not exit in order.
        inputs_listed: Inputs that the planner saw; 0 before there is a plan.
        inputs_done_before: Of these, how many were done before.
        planned: Inputs in all shards.
        done: Inputs of the plan with a result, according to markers and heartbeats.
        failed: Inputs that failed, according to heartbeats; exact once the run has ended.
        left: Inputs of the plan without a result.
        images_per_s: Of all workers alive, or while they report none, of the shards completed in the last 90 s.
        eta_s: Seconds to the end at this rate, or None.
        pools: Processes by pool.
        last_errors: Of the workers, newest heartbeat first, at most five.
        other_options: Options that change bytes and differ in earlier runs whose results are kept.
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
    """A heartbeat, its worker and its age."""

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
    """Read the progress of a run.

    Args:
        store: The output.
        run_name: Name of the run, None for the newest.

    Raises:
        UsageError: No such run.
        RunConflictError: A heartbeat was written by an incompatible version.
    """
    run = newest_run(store) if run_name is None else find_named(store, run_name)
    plan, end = read_plan(run), run.end()
    listed = sorted(heartbeats(run), key=lambda item: -item.modified_s)
    now_s = _now_s(run.store) if listed else 0.0
    seen = _beats(run, listed, now_s)
    marked = _Marked() if plan is None or _is_complete(end) else _read_marked(run, plan, now_s)
    rate = 0.0
    if any(one.is_alive for one in seen):
        rate = sum(one.beat.images_per_s for one in seen if one.is_alive) or marked.lately / ALIVE_S
    done, failed = _done_and_failed(marked, plan, end, seen)
    planned = plan.inputs_planned if plan else 0
    left = max(0, planned - done)
    return RunProgress(
        run=run.name,
        state=_state(plan, end, seen, has_results=bool(done)),
        inputs_listed=plan.inputs_listed if plan else 0,
        inputs_done_before=plan.inputs_done if plan else 0,
        planned=planned,
        done=done,
        failed=failed,
        left=left,
        images_per_s=float(f"{rate:.4g}"),
        eta_s=round(left / rate, 1) if rate and left else None,
        pools=_pools(seen),
        other_options=plan.other_options if plan else (),
        last_errors=tuple(one.beat.last_error for one in seen if one.beat.last_error)[:5],
    )


def _beats(run: Run, listed: Sequence[StoredObject], now_s: float) -> list[_Seen]:
    """Read heartbeats; one that is removed meanwhile is skipped."""
    beats = map_in_threads(lambda item: read_beat(run, item.key), listed)
    return [
        _Seen(item.key.rpartition("/")[2].rpartition("-")[0], now_s - item.modified_s, beat)
        for item, beat in zip(listed, beats, strict=True)
        if beat is not None
    ]


def _now_s(store: Store) -> float:
    """The store's time, or this machine's where the store needs a probe object and refuses it."""
    try:
        return store.now_s()
    except (ObjectError, StorageError):
        return time.time()


@dataclass(frozen=True)
class _Marked:
    """Inputs in completed shards: all, and of those completed in the last 90 s."""

    inputs: int = 0
    lately: int = 0


def _read_marked(run: Run, plan: Plan, now_s: float) -> _Marked:
    """Reads the parts that are not complete, or have been completed in the last 90 s."""

    def count(found: tuple[PlanPart, list[StoredObject]]) -> _Marked:
        part, markers = found
        late = {marked_shard(marker) for marker in markers if now_s - marker.modified_s <= ALIVE_S}
        if not late and len(markers) in {0, part.shards}:
            return _Marked(part.inputs if markers else 0)
        marked = {marked_shard(marker) for marker in markers}
        sizes = {shard.name: shard.inputs for shard in read_part(run, plan, part) if shard.name in marked}
        return _Marked(sum(sizes.values()), sum(sizes.get(name, 0) for name in late))

    counts = list(iter_in_threads(count, parts_with_markers(run, plan)))
    return _Marked(sum(one.inputs for one in counts), sum(one.lately for one in counts))


def _is_complete(end: RunEnd | None) -> bool:
    return end is not None and end.outcome != "superseded"


def _done_and_failed(marked: _Marked, plan: Plan | None, end: RunEnd | None, seen: Iterable[_Seen]) -> tuple[int, int]:
    if plan is None:
        return 0, 0
    if end is not None and _is_complete(end):
        return plan.inputs_planned, end.failed
    annotated, failed = (sum(getattr(one.beat, name) for one in seen) for name in ("annotated", "failed"))
    return max(marked.inputs, min(plan.inputs_planned, annotated + failed)), min(failed, plan.inputs_planned)


def _state(plan: Plan | None, end: RunEnd | None, seen: Sequence[_Seen], *, has_results: bool) -> State:
    if end is not None:
        return end.outcome
    if any(one.is_alive for one in seen):
        return "planning" if plan is None else "working"
    if plan is not None and not has_results and all(one.pool == _PLAN_POOL for one in seen):
        return "planned"
    newest = _newest_of_each(seen).values()
    return "interrupted" if seen and all(one.beat.activity == "left" for one in newest) else "stalled"


def _newest_of_each(seen: Iterable[_Seen]) -> dict[str, _Seen]:
    """The newest process of each worker id; it replaced the older ones."""
    newest: dict[str, _Seen] = {}
    for one in seen:
        newest.setdefault(one.worker_id, one)
    return newest


def _pools(seen: Iterable[_Seen]) -> dict[str, PoolProgress]:
    pools: dict[str, list[_Seen]] = {}
    for one in _newest_of_each(seen).values():
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
