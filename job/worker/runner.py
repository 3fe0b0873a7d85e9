"""`annotate` from flags to end: open, plan, work, end. One path for a folder of ten and for 100 million objects."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from job.errors import RunConflictError, RunOverError
from job.model.artifact import Artifact
from job.model.cache import RemoteModel
from job.model.loader import check_session
from job.plan.input_list import InputList
from job.plan.plan import Plan, PlannedShard, read_plan, read_shard
from job.plan.planner import obtain_plan
from job.plan.selection import Selection
from job.plan.takeover import refuse_if_others_work
from job.run.heartbeat import Heartbeat
from job.run.journal import ResultRow, read_history
from job.run.options import WorkerOptions
from job.run.run import Run, RunTarget, find_run, open_run
from job.run.spec import RunEnd, RunSpec
from job.storage.open import Address
from job.storage.store import Store, first_writes
from job.system.resources import return_freed_memory, visible_gpus
from job.system.signals import ended_by_signals, stopped_by_signals
from job.system.threads import iter_in_threads
from job.telemetry.observer import NullObserver, Observer
from job.telemetry.progress_bar import Progress, Tally
from job.worker.completion import end_if_complete
from job.worker.factory import build_worker
from job.worker.memory_need import check_memory
from job.worker.process import WorkerTask
from job.worker.shards import assigned_shards, completed_shards_in, open_shards, read_marker
from job.worker.supervisor import work_in_processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AnnotateRequest:
    """What `annotate` is asked for.

    Attributes:
        source: The input.
        target: The output.
        artifact: The model.
        spec: What is pinned for the run.
        is_date_given: Whether the user chose the annotation date.
        run_name: Name of the run, or None.
        options: How this process works.
        input_list: Takes the place of a listing, or None.
        addresses: How other processes open input and output; needed when `options.workers` is above 1.
        remote_model: Where the files of `artifact` are fetched from first, or None when they are there.
        observer: Told how the work goes.
    """

    source: Store
    target: Store
    artifact: Artifact
    spec: RunSpec
    is_date_given: bool
    run_name: str | None
    options: WorkerOptions
    input_list: InputList | None = None
    addresses: tuple[Address, Address] | None = None
    remote_model: RemoteModel | None = None
    observer: Observer = field(default_factory=NullObserver)


def annotate(request: AnnotateRequest, tally: Tally) -> RunEnd | None:
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
    check_memory(request.artifact, options)
    run = begin_run(request)
    request.observer.run_opened(run.name)
    end = run.end()
    if end is not None:
        return _nothing_to_do(end, tally)
    with ended_by_signals(), Heartbeat(run, options) as heartbeat:
        plan = obtain_plan(run, request.source, options, request.input_list)
        if plan is None:
            return _nothing_to_do(run.end(), tally)
        left = _count_what_is_done(run, plan, options, tally)
        _say_what_is_to_do(request.source, plan, tally)
        if left:
            try:
                _work(run, plan, left, request, _Reporter(tally, heartbeat, request.observer))
            except RunOverError as exc:
                logger.info("%s", exc)
        return end_if_complete(run, plan, options)


def begin_run(request: AnnotateRequest) -> Run:
    """The run to continue, or a new one.

    Raises:
        RunConflictError: See `job.run.run.open_run`; or an older run is at work and is not to be superseded.
    """
    if _find(request) is None and not request.options.supersede:
        try:
            refuse_if_others_work(request.target, request.options.clock.sleep)
        except RunConflictError:
            if _find(request) is None:  # else another process of this run has begun it meanwhile
                raise
    with first_writes(request.target):
        return open_run(
            request.target,
            request.spec,
            name=request.run_name,
            is_date_given=request.is_date_given,
            process_id=request.options.process_id,
        )


def _find(request: AnnotateRequest) -> Run | None:
    return find_run(request.target, request.spec, name=request.run_name, is_date_given=request.is_date_given)


def list_planned(request: AnnotateRequest) -> Iterator[str]:
    """Keys of what `annotate` would do now, ascending, without changing anything."""
    run = _find(request)
    plan = None if run is None else read_plan(run)
    if run is None or plan is None:
        target = RunTarget(request.target, request.spec)
        fresh = Selection(target, request.source, input_list=request.input_list)
        yield from (planned.json for planned in fresh.inputs())
        return
    for shard in plan.shards:
        done = read_history(run, shard.name).results
        yield from (planned.json for planned in read_shard(run, plan, shard) if planned.json not in done)


class _Reporter:
    """A listener that tells the tally, the heartbeat, the progress bar and the observer."""

    def __init__(self, tally: Tally, heartbeat: Heartbeat, observer: Observer) -> None:
        self.tally = tally
        self.heartbeat = heartbeat
        self.observer = observer
        self.progress: Progress | None = None

    def add(self, shard: PlannedShard, row: ResultRow) -> None:
        """A result of this process."""
        self.heartbeat.add(row, 0.0 if self.progress is None else self.progress.images_per_s)
        self.observer.image_finished(row.result, row.seconds)
        self.add_counts({row.result: 1}, row.dropped.get("beyond_255", 0))

    def add_others(self, shard: PlannedShard, results: Iterable[str]) -> None:
        """Results of other processes, or of earlier attempts."""
        self.add_counts(Counter(results), 0)

    def marked(self, shard: PlannedShard) -> None:
        """A complete shard is no news: its results were told."""

    def add_counts(self, results: Mapping[str, int], cut: int) -> None:
        """So many results of each kind; a negative count takes back what a worker process had told."""
        for result, count in results.items():
            self.tally.add(result, count)
        self.tally.cut += cut
        if self.progress is not None:
            self.progress.advance(sum(results.values()))


def _nothing_to_do(end: RunEnd | None, tally: Tally) -> RunEnd | None:
    logger.info("Nothing to do: the run has ended")
    if end is not None:
        tally.is_begun = True
        tally.annotated, tally.failed, tally.reviewed = end.annotated, end.failed, end.reviewed
        tally.skipped = end.inputs_listed - end.annotated - end.failed - end.reviewed
    return end


def _count_what_is_done(run: Run, plan: Plan, options: WorkerOptions, tally: Tally) -> Sequence[PlannedShard]:
    """Count the complete shards of this process; returns the others."""
    tally.is_begun, tally.skipped = True, plan.inputs_done
    own = assigned_shards(plan, options)
    marked = completed_shards_in(run, own)
    for marker in iter_in_threads(lambda name: read_marker(run, name), sorted(marked)):
        options.watchdog.touch()
        for result, count in marker.totals.items():
            tally.add(result, count)
    return [shard for shard in own if shard.name not in marked]


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


def _work(run: Run, plan: Plan, left: Sequence[PlannedShard], request: AnnotateRequest, reporter: _Reporter) -> None:
    options = request.options
    total = sum(shard.inputs for shard in assigned_shards(plan, options))
    reporter.heartbeat.beat.activity = "loading"
    if request.remote_model is not None:
        request.remote_model.fetch(options.watchdog.touch)
    if options.workers > 1:
        reporter.heartbeat.beat.activity = "working"
        with Progress(reporter.tally, total) as reporter.progress:
            work_in_processes(_task(run, request), run, left, reporter.add_counts, request.observer)
        return
    begun_s = options.clock.monotonic_s()
    worker = build_worker(run, request.source, request.artifact, options)
    request.observer.model_loaded(options.clock.monotonic_s() - begun_s)
    request.observer.model_checked(worker.self_check)
    request.observer.worker_ready(worker.load)
    reporter.heartbeat.beat.activity = "working"
    with Progress(reporter.tally, total) as reporter.progress, stopped_by_signals(worker.stop):
        worker.work(open_shards(run, plan, left, options, reporter), reporter)


def _task(run: Run, request: AnnotateRequest) -> WorkerTask:
    """What worker processes need to know."""
    assert request.addresses is not None
    return WorkerTask(
        addresses=request.addresses,
        artifact_folder=request.artifact.folder,
        artifact_digest=request.artifact.digest if request.artifact.pinned else None,
        run_name=run.name,
        options=request.options,
        gpus=visible_gpus() if request.options.device == "cuda" else (),
        log_level=logging.getLogger().level,
    )
