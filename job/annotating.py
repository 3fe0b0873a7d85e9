"""`annotate` from flags to end: open, plan, work, end. One path for a folder of ten and for 100 million objects."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from job.artifact import Artifact
from job.budget import ByteBudget, ResidentBudget
from job.ending import end_if_complete
from job.flow import Flow
from job.heartbeat import Heartbeat
from job.journal import ResultRow, read_history
from job.options import WorkerOptions
from job.pipeline import stages_of
from job.plan import Plan, PlannedShard, Selection, make_plan, read_plan, read_shard
from job.progress import Progress, Tally
from job.run import Run, RunEnd, RunSpec, find_run, open_run
from job.session import Session
from job.sessions import check_session, open_session
from job.shards import marked_shards, open_shards, own_shards, read_marker
from job.signals import ended_by_signals, stopped_by_signals
from job.stages import Annotator, Budgets
from job.store import Store, check_writable
from job.supersede import supersede_older
from job.system import available_memory, return_freed_memory, usable_cpus
from job.text import text_features_for
from job.worker import Provenance, Worker

logger = logging.getLogger(__name__)

DEFAULT_MEMORY_FRACTION = 0.6
_TRANSIENT_SHARE = 0.5
_IO_THREADS = 4
CPU_IN_FLIGHT = 2
_MASK_LOGITS_BYTES = 16 << 20
"""Allowance for the mask logits and outputs of one image."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `annotate` is asked for.

    Attributes:
        source: The input.
        target: The output.
        artifact: The model.
        spec: What is pinned for the run.
        is_date_given: Whether the user chose the annotation date.
        run_name: Name of the run, or None.
        options: How this process works.
    """

    source: Store
    target: Store
    artifact: Artifact
    spec: RunSpec
    is_date_given: bool
    run_name: str | None
    options: WorkerOptions


def annotate(request: Request, tally: Tally) -> RunEnd | None:
    """Do what is asked for, or this process's part of it.

    Args:
        request: What is asked for.
        tally: Counted up as results come in, so that it is true after an error too.

    Returns:
        How the run ended, or None while other processes have work left.

    Raises:
        AnnotateError: See job.errors; each kind has an exit code.
    """
    options = request.options
    return_freed_memory()
    check_session(request.artifact, options.device, options.runtime)
    check_writable(request.target, options.attempt)
    run = open_run(
        request.target,
        request.spec,
        name=request.run_name,
        is_date_given=request.is_date_given,
        attempt=options.attempt,
    )
    with ended_by_signals(), Heartbeat(run, options) as heartbeat:
        plan = read_plan(run) or _plan(run, request)
        left = _count_what_is_done(run, plan, options, tally)
        _say_what_is_to_do(request.source, plan, tally)
        if left:
            _work(run, plan, left, request, tally, heartbeat)
        return end_if_complete(run, plan, options)


def list_planned(request: Request) -> Iterator[str]:
    """Keys of what `annotate` would do now, ascending, without changing anything."""
    run = find_run(request.target, request.spec, name=request.run_name, is_date_given=request.is_date_given)
    plan = None if run is None else read_plan(run)
    if run is None or plan is None:
        fresh = Selection(Run(request.target, "", request.spec), request.source, frozenset())
        yield from (planned.json for planned in fresh.inputs())
        return
    for shard in plan.shards:
        done = read_history(run, shard.name).results
        yield from (planned.json for planned in read_shard(run, plan, shard) if planned.json not in done)


def _plan(run: Run, request: Request) -> Plan:
    forced = supersede_older(run, force=request.options.supersede, attempt=request.options.attempt)
    return make_plan(run, request.source, forced, request.options.num_indexes)


def _count_what_is_done(run: Run, plan: Plan, options: WorkerOptions, tally: Tally) -> Sequence[PlannedShard]:
    """Count the complete shards of this process; returns the others."""
    tally.is_begun, tally.skipped = True, plan.inputs_done
    marked = set(marked_shards(run))
    left = []
    for shard in own_shards(plan, options.index, options.num_indexes):
        if shard.name not in marked:
            left.append(shard)
            continue
        for result, count in read_marker(run, shard.name).totals.items():
            tally.add(result, count)
    return left


def _say_what_is_to_do(source: Store, plan: Plan, tally: Tally) -> None:
    if plan.inputs_listed == 0:
        logger.warning("No JSON files found in %s", source.url)
        return
    logger.info("Found %d JSON files to process", plan.inputs_planned)
    if plan.inputs_done:
        logger.info("%d more are annotated already (--override_previous_annotations does them again)", plan.inputs_done)
    if plan.images_without_json:
        logger.info("%d images have no JSON and are no inputs (named at --log_level DEBUG)", plan.images_without_json)
    if tally.finished == plan.inputs_planned:
        logger.info("Nothing to do")


def _work(
    run: Run, plan: Plan, left: Sequence[PlannedShard], request: Request, tally: Tally, heartbeat: Heartbeat
) -> None:
    options = request.options
    heartbeat.beat.activity = "loading"
    session = _open_session(request)
    worker = _build_worker(run, request, session)
    heartbeat.beat.activity = "working"
    total = sum(shard.inputs for shard in own_shards(plan, options.index, options.num_indexes))
    with Progress(tally, total) as progress, stopped_by_signals(worker.stop):

        def count(row: ResultRow) -> None:
            tally.add(row.result)
            tally.cut += row.dropped.get("beyond_255", 0)
            heartbeat.tell(tally, progress.images_per_s, row.reason)
            progress.advance()

        def count_earlier(rows: Sequence[ResultRow]) -> None:
            for row in rows:
                tally.add(row.result)
            progress.advance(len(rows))

        worker.work(open_shards(run, plan, left, options.attempt, count_earlier), count)


def _open_session(request: Request) -> Session:
    logger.info("Loading SAM3 model...")
    options = request.options
    session = open_session(
        request.artifact,
        device=options.device,
        batch_size=options.batch_size,
        threads=options.threads,
        runtime=options.runtime,
    )
    info = session.info
    logger.info("SAM3 model loaded successfully")
    logger.info("Model %s: %s, %s", request.artifact.manifest.model_id, info.runtime, info.provider)
    return session


def _build_worker(run: Run, request: Request, session: Session) -> Worker:
    options, info, cpus = request.options, session.info, usable_cpus()
    budget = options.memory_budget or int(available_memory() * DEFAULT_MEMORY_FRACTION)
    transient = int(budget * _TRANSIENT_SHARE)
    image_bytes = info.image_side * info.image_side * 3 + _MASK_LOGITS_BYTES
    budgets = Budgets(ResidentBudget(budget - transient, image_bytes), ByteBudget(transient))
    annotator = Annotator(
        run, request.source, session, text_features_for(request.artifact, session, run.spec.prompts), budgets
    )
    annotator.visualize = options.visualize
    in_flight = (options.batch_size or CPU_IN_FLIGHT) if options.device == "cpu" else 1
    stages = stages_of(annotator, batch_size=info.batch_size, in_flight=in_flight, cpus=cpus, io_threads=_IO_THREADS)
    capacity = 2 * (info.batch_size * in_flight) + 2 * cpus + 2 * _IO_THREADS
    flow = Flow(stages, capacity=capacity, item_timeout_s=options.image_timeout_s)
    who = Provenance(
        worker=options.attempt,
        artifact=request.artifact.digest,
        precision=request.artifact.manifest.precision,
        provider=f"{info.provider}/{info.threads}",
    )
    return Worker(run, flow, budgets.resident, options, who)
