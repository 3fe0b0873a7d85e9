"""Taking the place of older runs that have not ended, without two runs writing to one output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from job.errors import RunConflictError
from job.plan.plan import Plan, PlannedInput, PlannedShard, read_plan, read_shard
from job.run.heartbeat import Beat, heartbeats
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
"""Object stores stamp whole seconds; file systems stamp at least each clock tick of the kernel."""


def supersede_older(
    run: Run, *, process_id: str, sleep: Sleep = SYSTEM_CLOCK.sleep, on_progress: OnProgress = lambda: None
) -> frozenset[str]:
    """End older unfinished runs of the same output, and wait until the last puts of all older runs have landed.

    Args:
        run: The run that takes their place.
        process_id: Name of this process.
        sleep: Waits, in seconds.
        on_progress: Told of every step.

    Returns:
        Keys to be done whatever the output holds.

    Raises:
        RunConflictError: This run was superseded meanwhile.
    """
    _let_tick_pass(run, sleep)
    superseded = superseded_by(run)
    check_not_over(run)
    for other in superseded:
        if other.end is None:
            logger.info("Run %s is unfinished: run %s takes its place", other.run.name, run.name)
            other.run.write_end(RunEnd(outcome="superseded", by=process_id, superseded_by=run.name))
    _wait_until_quiet(run, sleep)
    return interrupted_work([other.run for other in superseded], on_progress)


def refuse_if_others_work(store: Store, sleep: Sleep = SYSTEM_CLOCK.sleep) -> None:
    """Before a run is begun: watch the unfinished ones.

    Raises:
        RunConflictError: One is at work.
    """
    unfinished = unfinished_runs(store)
    seen = {beat.key: beat.modified_s for run in unfinished for beat in heartbeats(run)}
    watched = [beat.modified_s for run in unfinished if not _left_in_order(run) for beat in heartbeats(run)]
    now_s = store.now_s() if watched else 0.0
    wait_s = max((HEARTBEAT_WATCH_S - (now_s - modified_s) for modified_s in watched), default=0.0)
    if wait_s > 0:
        logger.info("An older run of this output may be at work: watching it for %.0f s", wait_s)
        sleep(wait_s)
    for run in unfinished:
        has_changed = any(beat.modified_s != seen.get(beat.key) for beat in heartbeats(run))
        if has_changed and not _left_in_order(run):
            raise RunConflictError(
                f"run {run.name} of {store.url} is at work with other options: "
                "let it end, or give --supersede to end it"
            )


def _let_tick_pass(run: Run, sleep: Sleep) -> None:
    """A run that begins in the same tick of the store's clock may sort before this one: look when it is over."""
    begun = run.store.stat(run.key("run.json"))
    if begun is None:
        raise RunConflictError(f"run {run.name} vanished while it was planned: do not delete runs during a run")
    tick_s = _WHOLE_TICK_S if begun.modified_s.is_integer() else _FINE_TICK_S
    wait_s = tick_s - (run.store.now_s() - begun.modified_s)
    if wait_s > 0:
        sleep(wait_s)


def _left_in_order(run: Run) -> bool:
    """Whether every process that has worked on a run has ended in order."""

    def has_left(key: str) -> bool:
        return msgspec.json.decode(run.store.read(key), type=Beat).activity == "left"

    return all(iter_in_threads(has_left, [beat.key for beat in heartbeats(run)]))


def _wait_until_quiet(run: Run, sleep: Sleep) -> None:
    """Whoever has not left an older run in order may have a put in flight until its end is 60 s old."""
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
    wait_s = QUIET_AFTER_END_S - (run.store.now_s() - youngest_s)
    if wait_s > 0:
        logger.info("Waiting %.0f s for the last outputs of the older run", wait_s)
        sleep(wait_s)


def interrupted_work(older_runs: Iterable[Run], on_progress: OnProgress = lambda: None) -> frozenset[str]:
    """Keys of unfinished runs that had an earlier JSON in the output, were taken up, and have no stored row.

    Their masks may be new while their JSONs are still old, and no listing shows it.
    """
    forced: set[str] = set()
    for run in older_runs:
        plan = read_plan(run)
        if plan is None:
            continue
        for keys in iter_in_threads(_KeysAtRisk(run, plan), _shards_at_risk(run, plan)):
            on_progress()
            forced.update(keys)
    return frozenset(forced)


def _shards_at_risk(run: Run, plan: Plan) -> list[PlannedShard]:
    started = set(run.store.list_dirs(run.key("journal")))
    marked = {found.key.rpartition("/")[2].removesuffix(".json") for found in run.store.list(run.key("done"))}
    return [shard for shard in plan.shards if shard.name not in marked and (shard.forced or shard.name in started)]


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
        """An input without an earlier JSON shows by its missing JSON how far it came."""
        return bool(history.started) and (self.run.spec.override or planned.prior is not False)
