"""Taking the place of older runs that have not ended, without two runs writing to one output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from job.clock import SYSTEM_CLOCK
from job.errors import RunConflictError
from job.heartbeat import Beat
from job.plan import interrupted_overrides
from job.run import HEARTBEAT_WATCH_S, QUIET_AFTER_END_S, Run, RunEnd, check_not_over, displaced_by, heartbeats

logger = logging.getLogger(__name__)

Sleep = Callable[[float], None]


def supersede_older(run: Run, *, force: bool, attempt: str, sleep: Sleep = SYSTEM_CLOCK.sleep) -> frozenset[str]:
    """End older unfinished runs of the same output, and wait until their last puts have landed.

    Args:
        run: The run that takes their place.
        force: End them even if their workers are at work.
        attempt: Name of this process.
        sleep: Waits, in seconds.

    Returns:
        Keys to be done whatever the output holds.

    Raises:
        RunConflictError: An older run is at work, or this one was superseded meanwhile.
    """
    displaced = displaced_by(run)
    if not displaced:
        return frozenset()
    unfinished = [other.run for other in displaced if other.end is None]
    older = [other.run for other in displaced]
    left_in_order = all(_left_in_order(other) for other in older)
    if unfinished and not force and not left_in_order:
        _refuse_if_at_work(unfinished, sleep)
    check_not_over(run)
    for other in unfinished:
        logger.info("Run %s is unfinished and has other options: run %s takes its place", other.name, run.name)
        other.write_end(RunEnd(outcome="superseded", by=attempt, superseded_by=run.name))
    if not left_in_order:
        _wait_until_quiet(run, older, sleep)
    return interrupted_overrides(older)


def _left_in_order(run: Run) -> bool:
    beats = [msgspec.json.decode(run.store.read(found.key), type=Beat) for found in heartbeats(run)]
    return all(beat.activity == "left" and beat.is_alone for beat in beats)


def _refuse_if_at_work(older: Sequence[Run], sleep: Sleep) -> None:
    """Watch the heartbeats until each is known not to have changed for 70 s."""
    store = older[0].store
    seen = {found.key: found.modified_s for run in older if not _left_in_order(run) for found in heartbeats(run)}
    wait_s = max((HEARTBEAT_WATCH_S - (store.now_s() - modified_s) for modified_s in seen.values()), default=0.0)
    if wait_s > 0:
        logger.info("An older run of this output may be at work: watching it for %.0f s", wait_s)
        sleep(wait_s)
    for run in older:
        changed = any(found.modified_s != seen.get(found.key) for found in heartbeats(run) if found.key in seen)
        if changed and not _left_in_order(run):
            raise RunConflictError(
                f"run {run.name} of {store.url} is at work with other options: "
                "let it end, or give --supersede to end it"
            )


def _wait_until_quiet(run: Run, older: Sequence[Run], sleep: Sleep) -> None:
    ends = [run.store.stat(other.key("end.json")) for other in older]
    youngest_s = max(found.modified_s for found in ends if found is not None)
    wait_s = QUIET_AFTER_END_S - (run.store.now_s() - youngest_s)
    if wait_s > 0:
        logger.info("Waiting %.0f s for the last outputs of the older run", wait_s)
        sleep(wait_s)
