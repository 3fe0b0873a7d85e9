"""Takeover: a new run supersedes unfinished runs, so that only one run writes to an output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from job.errors import RunConflictError
from job.plan.plan import (
    Plan,
    PlannedInput,
    PlannedShard,
    marked_shard,
    parts_with_markers,
    read_part,
    read_plan,
    read_shard,
)
from job.run.heartbeat import heartbeats, read_beat
from job.run.history import runs_before, superseded_by, unfinished_runs
from job.run.journal import ShardHistory, read_history
from job.run.run import HEARTBEAT_WATCH_S, QUIET_AFTER_END_S, Run, check_not_over
from job.run.spec import RunEnd
from job.storage.store import Store
from job.system.clock import SYSTEM_CLOCK
from job.system.threads import iter_in_threads, map_in_threads
from job.system.watchdog import OnProgress

logger = logging.getLogger(__name__)

Sleep = Callable[[float], None]

_WHOLE_TICK_S, _FINE_TICK_S = 1.0, 0.05
"""Resolution of modification times: whole seconds in object stores, clock ticks of the kernel in file systems."""


def supersede_older(
    run: Run, *, process_id: str, sleep: Sleep = SYSTEM_CLOCK.sleep, on_progress: OnProgress = lambda: None
) -> frozenset[str]:
    """End older unfinished runs of the same output, and wait until the last puts of all older runs have completed.

    Args:
        run: The new run.
        process_id: Random ID of this process.
        sleep: Waits, in seconds.
        on_progress: Called on every step.

    Returns:
        Keys that must be redone.

    Raises:
        RunConflictError: This run was superseded.
    """
    _let_tick_pass(run, sleep)
    superseded = superseded_by(run)
    check_not_over(run)
    for other in superseded:
        if other.end is None:
            logger.info("Run %s is unfinished: run %s supersedes it", other.run.name, run.name)
            other.run.write_end(RunEnd(outcome="superseded", by=process_id, superseded_by=run.name))
    _wait_until_quiet(run, sleep)
    return interrupted_work([other.run for other in superseded], on_progress)


def refuse_if_others_work(store: Store, sleep: Sleep = SYSTEM_CLOCK.sleep) -> None:
    """Watch the heartbeats of unfinished runs before a new run is created.

    Raises:
        RunConflictError: One of them is still running.
    """
    unfinished = unfinished_runs(store)
    seen = {beat.key: beat.modified_s for run in unfinished for beat in heartbeats(run)}
    watched = [beat.modified_s for run in unfinished if not _left_in_order(run) for beat in heartbeats(run)]
    now_s = store.now_s() if watched else 0.0
    wait_s = max((_until_age(HEARTBEAT_WATCH_S, now_s - modified_s) for modified_s in watched), default=0.0)
    if wait_s > 0:
        logger.info("An older run of this output may still be running: watching its heartbeats for %.0f s", wait_s)
        sleep(wait_s)
    for run in unfinished:
        has_changed = any(beat.modified_s != seen.get(beat.key) for beat in heartbeats(run))
        if has_changed and not _left_in_order(run):
            raise RunConflictError(
                f"run {run.name} of {store.url} is still running with other options: "
                "wait until it ends, or give --supersede to end it"
            )


def _let_tick_pass(run: Run, sleep: Sleep) -> None:
    """Wait until the clock tick of this run's start is over: a run of the same tick may sort before it."""
    begun = run.store.stat(run.key("run.json"))
    if begun is None:
        raise RunConflictError(f"run {run.name} vanished during planning: do not delete runs during a run")
    tick_s = _WHOLE_TICK_S if begun.modified_s.is_integer() else _FINE_TICK_S
    wait_s = _until_age(tick_s, run.store.now_s() - begun.modified_s)
    if wait_s > 0:
        sleep(wait_s)


def _until_age(wanted_s: float, age_s: float) -> float:
    """Seconds until a file has this age; an age below 0 tells that the clock was set back, after its last change."""
    return wanted_s - max(0.0, age_s)


def _left_in_order(run: Run) -> bool:
    """Whether every process of a run has exited in order."""

    def has_left(key: str) -> bool:
        beat = read_beat(run, key)
        return beat is not None and beat.activity == "left"

    return all(iter_in_threads(has_left, [beat.key for beat in heartbeats(run)]))


def _wait_until_quiet(run: Run, sleep: Sleep) -> None:
    """Wait until the ends of older runs are 60 s old: a killed worker of theirs may have a put in flight."""
    older: Sequence[Run] = runs_before(run)
    ends = map_in_threads(lambda other: run.store.stat(other.key("end.json")), older)
    now_s = run.store.now_s() if older else 0.0
    young = [
        (other, end.modified_s)
        for other, end in zip(older, ends, strict=True)
        if end is not None and now_s - end.modified_s < QUIET_AFTER_END_S
    ]
    youngest_s = max((modified_s for other, modified_s in young if not _left_in_order(other)), default=None)
    if youngest_s is None:
        return
    wait_s = _until_age(QUIET_AFTER_END_S, run.store.now_s() - youngest_s)
    if wait_s > 0:
        logger.info("Waiting %.0f s for the last writes of the older run", wait_s)
        sleep(wait_s)


def was_quiet(run: Run, age_s: float) -> bool:
    """Whether a listing that began `age_s` ago saw the last writes of all older runs; as `supersede_older` waits."""
    older = runs_before(run)
    ends = map_in_threads(lambda other: run.store.stat(other.key("end.json")), older)
    now_s = run.store.now_s() if older else 0.0
    return all(end is not None and now_s - end.modified_s >= age_s + QUIET_AFTER_END_S for end in ends)


def interrupted_work(older_runs: Iterable[Run], on_progress: OnProgress = lambda: None) -> frozenset[str]:
    """Keys of unfinished runs that had an earlier JSON, may have been started, and have no stored row.

    Their masks may be new while their JSON files are old, and no listing shows it.
    """
    must_redo: set[str] = set()
    for run in older_runs:
        plan = read_plan(run)
        if plan is None:
            continue
        for keys in iter_in_threads(_KeysAtRisk(run, plan), _shards_at_risk(run, plan)):
            on_progress()
            must_redo.update(keys)
    return frozenset(must_redo)


def _shards_at_risk(run: Run, plan: Plan) -> Iterator[PlannedShard]:
    """Shards without a marker that were started or must be redone; reads the parts that may hold one."""
    started = set(run.store.list_dirs(run.key("journal")))
    for part, markers in parts_with_markers(run, plan):
        if len(markers) == part.shards:
            continue
        marked = {marked_shard(marker) for marker in markers}
        for shard in read_part(run, plan, part):
            if shard.name not in marked and (shard.forced or shard.name in started):
                yield shard


@dataclass(frozen=True)
class _KeysAtRisk:
    run: Run
    plan: Plan

    def __call__(self, shard: PlannedShard) -> list[str]:
        history = read_history(self.run, shard.name)
        return [
            planned.json
            for planned in read_shard(self.run, self.plan, shard)
            if planned.json not in history.results and (planned.forced or self._may_be_torn(planned, history))
        ]

    def _may_be_torn(self, planned: PlannedInput, history: ShardHistory) -> bool:
        """Whether mask and JSON may differ; an input without an earlier JSON has none until both are written."""
        return bool(history.started) and (self.run.spec.override or planned.prior is not False)
