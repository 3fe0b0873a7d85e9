"""Images a second from JPEG files to written masks: the worker of `annotate` on local folders."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from job.errors import WorkerError
from job.plan.plan import iter_shards
from job.plan.planner import obtain_plan
from job.run.options import WorkerOptions
from job.run.run import Run, RunTarget, open_run
from job.run.spec import RunSpec
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally, counts_of
from job.tools.bench.pictures import write_pictures
from job.worker.factory import LoadedModel, assemble_worker
from job.worker.shards import open_shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from job.model.artifact import Artifact
    from job.plan.plan import PlannedShard
    from job.run.journal import ResultRow

_DATE = "2026-01-01"
_MAX_PIXELS = 100_000_000


class CountingListener:
    """Counts the results."""

    def __init__(self) -> None:
        self.tally = Tally()

    def add(self, shard: PlannedShard, row: ResultRow) -> None:
        """Count a result."""
        self._count(counts_of(row))

    def add_others(self, shard: PlannedShard, results: Iterable[str]) -> None:
        """Nothing to do: no other process works on this run."""

    def marked(self, shard: PlannedShard) -> None:
        """Nothing to do: the results are counted."""

    def _count(self, counts: Mapping[str, int]) -> None:
        self.tally.add_counts(counts)


def open_folders(folder: Path, artifact: Artifact, prompts: tuple[str, ...], name: str) -> tuple[LocalStore, Run]:
    """Open the input `folder/in` and a new run in the output `folder/out-NAME`."""
    options = WorkerOptions(device="cpu")
    source = LocalStore(folder / "in", options.process_id)
    spec = RunSpec(
        input_url=source.url,
        prompts=prompts,
        confidence_threshold=0.4,
        annotation_date=_DATE,
        image_mode="copy",
        override=False,
        override_reviewed=False,
        max_image_pixels=_MAX_PIXELS,
        limit=None,
        model_id=artifact.manifest.model_id,
        checkpoint_sha256=artifact.manifest.checkpoint_sha256,
    )
    target = LocalStore(folder / f"out-{name}", options.process_id)
    return source, open_run(target, spec, name="bench", is_date_given=True, process_id=options.process_id)


def images_per_s(
    folder: Path, model: LoadedModel, options: WorkerOptions, prompts: tuple[str, ...], in_flight: int
) -> float:
    """Annotate the pictures of `folder/in`; the time begins when the model is loaded and the plan is made.

    Raises:
        WorkerError: An image failed.
    """
    name = f"b{model.session.info.batch_size}"
    source, run = open_folders(folder, model.artifact, prompts, name)
    plan = obtain_plan(run, source, options, None)
    assert plan is not None, "the run is new"
    worker = assemble_worker(run, source, model, options, in_flight)
    listener = CountingListener()
    begun_s = time.perf_counter()
    worker.work(open_shards(run, plan, iter_shards(run, plan), options, listener), listener)
    elapsed_s = time.perf_counter() - begun_s
    run.store.close()
    if listener.tally.annotated != plan.inputs_planned:
        annotated = listener.tally.annotated
        raise WorkerError(f"{annotated} of {plan.inputs_planned} synthetic pictures were annotated: see the log")
    return plan.inputs_planned / elapsed_s


def write_inputs(folder: Path, count: int, size_wh: tuple[int, int]) -> None:
    """Write the pictures into `folder/in`, in the place of those that are there."""
    shutil.rmtree(folder / "in", ignore_errors=True)
    write_pictures(folder / "in", count, size_wh)


def run_target(run: Run) -> RunTarget:
    """The output of a run, for an annotator without a worker."""
    return RunTarget(run.store, run.spec)
