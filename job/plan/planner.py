"""Planning: makes the plan of a run, or waits for another process to make it."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable

import msgspec

from job.plan.input_list import InputList
from job.plan.output_names import open_output_names
from job.plan.plan import Plan, read_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing, write_shards
from job.plan.spool import SpooledSelection
from job.plan.takeover import supersede_older, was_quiet
from job.run.heartbeat import heartbeats
from job.run.history import options_that_differ
from job.run.options import WorkerOptions
from job.run.run import Run, check_not_over
from job.storage.store import Store, StoredObject

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, MAX_BACKOFF_S = 1.0, 30.0
PATIENCE_S, PATIENCE_JITTER_S = 300.0, 60.0
"""Time for which a waiting process tolerates an unchanged heartbeat of the planner before it plans itself."""
_PLANNER_SUFFIX = "-00000"


def obtain_plan(
    run: Run,
    source: Store,
    options: WorkerOptions,
    input_list: InputList | None,
    before_wait: Callable[[], None] = lambda: None,
) -> Plan | None:
    """Read the plan of the run, wait for it, or make it.

    Args:
        run: The run.
        source: The input.
        options: This process.
        input_list: Takes the place of a listing, or None.
        before_wait: Called before this process waits for the plan of another, which may take long.

    Returns:
        The plan, or None if the run has ended.

    Raises:
        RunConflictError: The run was superseded, or an older one is running.
    """
    plan = read_plan(run)
    if plan is None and not is_planner(options):
        before_wait()
        plan = _wait_for_plan(run, options)
        if plan is None and run.end() is not None:
            return None
    if plan is not None:
        return plan
    return plan_now(run, source, options, input_list)


def plan_now(
    run: Run,
    source: Store,
    options: WorkerOptions,
    input_list: InputList | None,
    listed: SpooledSelection | None = None,
) -> Plan:
    """Supersede older runs, list, and write the plan; raises the errors of `obtain_plan`.

    Args:
        run: The run to plan.
        source: The input.
        options: Of this process.
        input_list: Replaces both listings, or None.
        listed: The same selection, listed before; used if no older run may have written since.
    """
    on_progress = options.watchdog.touch
    sizing = Sizing(num_indexes=options.num_indexes * options.workers, shard_size=options.shard_size)
    must_redo = supersede_older(run, process_id=options.process_id, sleep=options.clock.sleep, on_progress=on_progress)
    if listed is not None and _is_current(run, listed):
        plan = make_plan(run, listed, sizing)
    else:
        selection = Selection(run, source, must_redo, input_list, on_progress)
        selection.probes_output = True
        plan = make_plan(run, selection, sizing)
    if plan.other_options:
        logger.warning(
            "%d inputs are annotated already and kept, though earlier runs had another %s "
            "(--override_previous_annotations does them again)",
            plan.inputs_done,
            " and ".join(plan.other_options),
        )
    return plan


def _is_current(run: Run, listed: SpooledSelection) -> bool:
    """Whether a listing made before may be planned: whole, after older runs, and no names can meet in the output."""
    if not listed.is_whole or not was_quiet(run, listed.age_s):
        return False
    names = open_output_names(run.store)
    if names is not None:
        names.close()
    return names is None


def is_planner(options: WorkerOptions) -> bool:
    """Whether this process plans without waiting: index 0 of each pool, or the only process."""
    return options.index == 0


def _wait_for_plan(run: Run, options: WorkerOptions) -> Plan | None:
    """Poll for the plan with exponential backoff; None if the run has ended or no planner seems to run."""
    clock, pause_s = options.clock, FIRST_PAUSE_S
    patience_s = PATIENCE_S + random.uniform(0, PATIENCE_JITTER_S)
    seen: object = None
    changed_s = clock.monotonic_s()
    logger.info("Waiting for index 0 of a pool to plan run %s", run.name)
    while clock.monotonic_s() - changed_s < patience_s:
        clock.sleep(random.uniform(pause_s / 2, pause_s))
        options.watchdog.touch()
        pause_s = min(2 * pause_s, MAX_BACKOFF_S)
        plan = read_plan(run)
        if plan is not None:
            return plan
        end = run.end()
        if end is not None:
            end.check_not_superseded(run.name)
            return None
        found = [(beat.key, beat.modified_s) for beat in heartbeats(run) if _is_of_planner(beat)]
        if found != seen:
            seen, changed_s = found, clock.monotonic_s()
    logger.warning("No heartbeat of a planner for %.0f s: planning in this process", patience_s)
    return None


def _is_of_planner(beat: StoredObject) -> bool:
    worker_key, _, _ = beat.key.rpartition("-")
    return worker_key.endswith(_PLANNER_SUFFIX)


def make_plan(run: Run, selection: Selection | SpooledSelection, sizing: Sizing) -> Plan:
    """List input and output, and write the plan unless another planner has.

    Args:
        run: The run to plan.
        selection: The inputs to process; not consumed yet.
        sizing: The size of shards.

    Returns:
        The valid plan.

    Raises:
        RunConflictError: The run was superseded during planning.
    """
    nonce = secrets.token_hex(4)
    parts = tuple(write_shards(run, nonce, selection.lines(), sizing))
    plan = Plan(
        nonce=nonce,
        parts=parts,
        inputs_listed=selection.inputs_listed,
        inputs_done=selection.inputs_done,
        images_without_json=selection.counts.images_without_json,
        other_options=options_that_differ(run) if selection.inputs_done else (),
    )
    run.store.flush()
    check_not_over(run)
    run.store.create(run.key("plan.json"), msgspec.json.encode(plan))
    return read_plan(run) or plan
