"""Who plans, and what the others do until there is a plan."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

from job.errors import ConfigurationError, CredentialsRefusedError, RunConflictError
from job.plan.input_list import InputList
from job.plan.plan import Plan, Sizing, make_plan, read_plan
from job.plan.selection import Selection
from job.plan.takeover import supersede_older
from job.run.options import WorkerOptions
from job.run.run import Run, heartbeats
from job.storage.store import Store, StoredObject

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
PATIENCE_S, PATIENCE_JITTER_S = 300.0, 60.0
"""How long a process that does not plan waits for a sign of life of one that does."""
_PLACE_OF_PLANNERS = "-00000"


def obtain_plan(run: Run, source: Store, options: WorkerOptions, input_list: InputList | None) -> Plan | None:
    """The run's plan: read, waited for, or made here.

    Returns:
        The plan, or None when the run has ended meanwhile.

    Raises:
        RunConflictError: The run was superseded, or an older one is at work.
    """
    plan = read_plan(run)
    if plan is None and not is_planner(options):
        plan = _wait_for_plan(run, options)
        if plan is None and run.end() is not None:
            return None
    if plan is not None:
        return plan
    return plan_now(run, source, options, input_list)


def plan_now(run: Run, source: Store, options: WorkerOptions, input_list: InputList | None) -> Plan:
    """Take the place of older runs, list, and write the plan; raises what `obtain_plan` does."""
    moved = options.pulse.moved
    forced = supersede_older(run, attempt=options.attempt, sleep=options.clock.sleep, moved=moved)
    selection = Selection(run, source, forced, input_list, moved)
    sharing = options.num_indexes * options.workers
    plan = make_plan(run, selection, Sizing(num_indexes=sharing, shard_size=options.shard_size))
    if plan.other_options:
        logger.warning(
            "%d inputs are annotated already and kept, though earlier runs had another %s "
            "(--override_previous_annotations does them again)",
            plan.inputs_done,
            " and ".join(plan.other_options),
        )
    return plan


@contextmanager
def refusals_are_configuration(*, is_planner: bool) -> Iterator[None]:
    """Where storage refuses the planner from the start, every other process would see the same.

    Raises:
        ConfigurationError: Storage has refused this user from the start, and this process is to plan.
    """
    try:
        yield
    except CredentialsRefusedError as exc:
        if not is_planner:
            raise
        raise ConfigurationError(str(exc)) from exc


def is_planner(options: WorkerOptions) -> bool:
    """Whether this process plans without waiting: index 0 of each pool, or the only process."""
    return options.index == 0


def _wait_for_plan(run: Run, options: WorkerOptions) -> Plan | None:
    """Look for the plan with growing pauses; None when the run has ended, or when nobody seems to be planning."""
    clock, pause_s = options.clock, FIRST_PAUSE_S
    patience_s = PATIENCE_S + random.uniform(0, PATIENCE_JITTER_S)
    seen: object = None
    changed_s = clock.monotonic_s()
    logger.info("Waiting for the plan of run %s, which index 0 of a pool makes", run.name)
    while clock.monotonic_s() - changed_s < patience_s:
        clock.sleep(random.uniform(pause_s / 2, pause_s))
        options.pulse.moved()
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        plan = read_plan(run)
        if plan is not None:
            return plan
        end = run.end()
        if end is not None:
            if end.outcome == "superseded":
                raise RunConflictError(f"run {run.name} was superseded by run {end.superseded_by}")
            return None
        beats = [(beat.key, beat.modified_s) for beat in heartbeats(run) if _is_of_planner(beat)]
        if beats != seen:
            seen, changed_s = beats, clock.monotonic_s()
    logger.warning("No sign of a planner for %.0f s: planning here", patience_s)
    return None


def _is_of_planner(beat: StoredObject) -> bool:
    place, _, _ = beat.key.rpartition("-")
    return place.endswith(_PLACE_OF_PLANNERS)
