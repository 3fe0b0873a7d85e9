"""`annotate` from a request to the end of the run: open, plan, work, end; one path for every size of input."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from job.errors import NoInputsError, RunConflictError, RunOverError
from job.model.artifact import Artifact
from job.model.cache import RemoteModel
from job.model.loader import check_gpu, check_session
from job.plan.input_list import InputList
from job.plan.plan import Plan, PlannedShard, iter_shards, read_plan, read_shard
from job.plan.planner import obtain_plan
from job.plan.selection import Selection
from job.plan.takeover import refuse_if_others_work
from job.run.heartbeat import Heartbeat
from job.run.journal import ResultRow, read_history
from job.run.options import WorkerOptions
from job.run.run import Run, RunTarget, find_run, open_run
from job.run.spec import RunEnd, RunSpec
from job.storage.keys import READ_FORMATS
from job.storage.open import Address
from job.storage.store import Store, first_writes
from job.system.resources import return_freed_memory, visible_gpus
from job.system.signals import ended_by_signals, stopped_by_signals
from job.system.threads import iter_in_threads
from job.telemetry.observer import NullObserver, Observer
from job.telemetry.progress_bar import Progress, Tally, counts_of
from job.worker.completion import end_if_complete
from job.worker.factory import build_worker
from job.worker.memory_need import check_memory
from job.worker.process import WorkerTask
from job.worker.shards import assigned_shards, completed_shards_in, open_shards, read_marker
from job.worker.supervisor import work_in_processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AnnotateRequest:
    """The parameters of `annotate`.

    Attributes:
        source: The input.
        target: The output.
        artifact: The model.
        spec: What is pinned for the run.
        is_date_given: Whether the user chose the annotation date.
        run_name: Name of the run, or None.
        options: How this process works.
        fail_if_empty: Whether an input without a JSON is an error.
        input_list: Takes the place of a listing, or None.
        addresses: How other processes open input and output; needed when `options.workers` is above 1.
        remote_model: Where the files of `artifact` are downloaded from, or None when they are local.
        observer: Notified of the progress.
    """

    source: Store
    target: Store
    artifact: Artifact
    spec: RunSpec
    is_date_given: bool
    run_name: str | None
    options: WorkerOptions
    fail_if_empty: bool = False
    input_list: InputList | None = None
    addresses: tuple[Address, Address] | None = None
    remote_model: RemoteModel | None = None
    observer: Observer = field(default_factory=NullObserver)


def annotate(request: AnnotateRequest, tally: Tally) -> RunEnd | None:
    """Annotate the input, or this process's part of it.

    Args:
        request: The parameters.
        tally: Updated with each result, so that it is correct after an error too.

    Returns:
        How the run ended, or None while other processes have work left.

    Raises:
        AnnotateError: See job.errors; each class has an exit code.
    """
    options = request.options
    return_freed_memory()
    check_session(request.artifact, options.device, options.runtime)
    check_memory(request.artifact, options)
    run = begin_run(request)
    request.observer.run_opened(run.name)
    end = run.end()
    if end is not None:
        return _nothing_to_do(request, end, tally)
    with ended_by_signals(), Heartbeat(run, options) as heartbeat:
        check = partial(check_gpu, options.device, options.runtime)
        plan = obtain_plan(run, request.source, options, request.input_list, before_wait=check)
        if plan is None:
            return _nothing_to_do(request, run.end(), tally)
        tally.without_json, tally.takes_images = plan.images_without_json, run.spec.missing_json == "create"
        own = assigned_shards(run, plan, options)
        left = _count_completed(run, plan, own, options, tally)
        _log_work(request.source, plan, tally)
        if left:
            try:
                reporter = _Reporter(tally, heartbeat, request.observer)
                reporter.total = sum(shard.inputs for shard in own)
                _work(run, plan, left, request, reporter)
            except RunOverError as exc:
                logger.info("%s", exc)
        end = end_if_complete(run, plan, options)
        check_not_empty(request, plan.inputs_listed)
        return end


def begin_run(request: AnnotateRequest) -> Run:
    """Open the run to resume, or a new one.

    Raises:
        RunConflictError: See `job.run.run.open_run`; or an older run is still working, and `supersede` is not set.
    """
    if _find(request) is None and not request.options.supersede:
        try:
            refuse_if_others_work(request.target, request.options.clock.sleep)
        except RunConflictError:
            if _find(request) is None:  # otherwise another process of this run has created it meanwhile
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
    """Yield the keys that `annotate` would process now, ascending, without changing anything."""
    run = _find(request)
    plan = None if run is None else read_plan(run)
    if run is None or plan is None:
        target = RunTarget(request.target, request.spec)
        fresh = Selection(target, request.source, input_list=request.input_list)
        yield from (planned.json for planned in fresh.inputs())
        return
    for shard in iter_shards(run, plan):
        done = read_history(run, shard.name).results
        yield from (planned.json for planned in read_shard(run, plan, shard) if planned.json not in done)


class _Reporter:
    """A listener that updates the tally, the heartbeat, the progress bar and the observer."""

    def __init__(self, tally: Tally, heartbeat: Heartbeat, observer: Observer) -> None:
        self.tally = tally
        self.heartbeat = heartbeat
        self.observer = observer
        self.progress: Progress | None = None
        self.total = 0

    def add(self, shard: PlannedShard, row: ResultRow) -> None:
        """Count a result of this process."""
        self.heartbeat.add(row, 0.0 if self.progress is None else self.progress.images_per_s)
        self.observer.image_finished(row.result, row.seconds)
        self.add_counts(counts_of(row))

    def add_others(self, shard: PlannedShard, results: Iterable[str]) -> None:
        """Count results of other processes, or of earlier attempts."""
        self.add_counts(Counter(results))

    def marked(self, shard: PlannedShard) -> None:
        """Nothing to do: the results of a complete shard are counted."""

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Add counts as `counts_of` gives them; negative counts take back what a worker process reported."""
        finished = self.tally.add_counts(counts)
        if self.progress is not None:
            self.progress.advance(finished)


def _nothing_to_do(request: AnnotateRequest, end: RunEnd | None, tally: Tally) -> RunEnd | None:
    logger.info("Nothing to do: the run has ended")
    if end is not None:
        tally.is_begun = True
        tally.annotated, tally.failed, tally.reviewed = end.annotated, end.failed, end.reviewed
        tally.skipped = end.inputs_listed - end.annotated - end.failed - end.reviewed
        check_not_empty(request, end.inputs_listed)
    return end


def check_not_empty(request: AnnotateRequest, inputs_listed: int) -> None:
    """Refuse an input without a JSON, or without an image that needs none, where the request asks for that.

    Raises:
        NoInputsError: There is none.
    """
    if not request.fail_if_empty or inputs_listed:
        return
    if request.spec.missing_json == "create":
        raise NoInputsError(
            f"no JSON files and no images ({READ_FORMATS}) in {request.source.url} (--fail_if_empty): give the "
            "folder or prefix of the images"
        )
    raise NoInputsError(
        f"no JSON files in {request.source.url} (--fail_if_empty): give the folder or prefix whose images have "
        "JSON files beside them, or --missing_json create for images without JSON files"
    )


def warn_if_empty(source: Store, plan: Plan) -> None:
    """Warn of an input without a JSON, as the original does, and name the number of its images."""
    if plan.inputs_listed:
        return
    logger.warning("No JSON files found in %s", source.url)
    if plan.images_without_json:
        logger.warning(
            "%d images without a JSON were found: only images with a JSON of the same name are inputs "
            "(--missing_json create takes the others too)",
            plan.images_without_json,
        )
    else:
        logger.warning(
            "No %s images were found either: check the folder or prefix, --include and --exclude",
            READ_FORMATS.replace("and", "or"),
        )


def _count_completed(
    run: Run, plan: Plan, own: Sequence[PlannedShard], options: WorkerOptions, tally: Tally
) -> Sequence[PlannedShard]:
    """Count the complete shards of this process; returns the others."""
    tally.is_begun, tally.skipped = True, plan.inputs_done
    marked = completed_shards_in(run, own)
    for marker in iter_in_threads(lambda name: read_marker(run, name), sorted(marked)):
        options.watchdog.touch()
        tally.add_counts(marker.totals)
    return [shard for shard in own if shard.name not in marked]


def _log_work(source: Store, plan: Plan, tally: Tally) -> None:
    """Log what there is to do."""
    warn_if_empty(source, plan)
    if plan.inputs_listed == 0:
        return
    if plan.inputs_planned:
        logger.info("Found %d JSON files to process", plan.inputs_planned)
    if plan.inputs_done:
        which = f"{plan.inputs_done} more" if plan.inputs_planned else f"All {plan.inputs_done} JSON files found"
        logger.info("%s are annotated already (--override_previous_annotations annotates them again)", which)
    if plan.images_without_json and tally.takes_images:
        logger.info("%d of the inputs are images without a JSON: each gets a minimal one", plan.images_without_json)
    elif plan.images_without_json:
        logger.info("%d images have no JSON and are no inputs (--missing_json create)", plan.images_without_json)
    if tally.finished == plan.inputs_planned:
        logger.info("Nothing to do")


def _work(run: Run, plan: Plan, left: Sequence[PlannedShard], request: AnnotateRequest, reporter: _Reporter) -> None:
    options = request.options
    reporter.heartbeat.beat.activity = "loading"
    check_gpu(options.device, options.runtime)  # before a model is fetched, which may take minutes
    if request.remote_model is not None:
        request.remote_model.fetch(options.watchdog.touch)
    if options.workers > 1:
        reporter.heartbeat.beat.activity = "working"
        with Progress(reporter.tally, reporter.total) as reporter.progress:
            work_in_processes(_task(run, request), run, left, reporter.add_counts, request.observer)
        return
    begun_s = options.clock.monotonic_s()
    worker = build_worker(run, request.source, request.artifact, options)
    request.observer.model_loaded(options.clock.monotonic_s() - begun_s)
    request.observer.model_checked(worker.self_check)
    request.observer.worker_ready(worker.load)
    reporter.heartbeat.beat.activity = "working"
    with Progress(reporter.tally, reporter.total) as reporter.progress, stopped_by_signals(worker.stop):
        worker.work(open_shards(run, plan, left, options, reporter), reporter)


def _task(run: Run, request: AnnotateRequest) -> WorkerTask:
    """The task of the worker processes."""
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
