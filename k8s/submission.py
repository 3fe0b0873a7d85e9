"""What `submit` reads before it changes anything: the rendered release, its run and the work left."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import yaml

from job.cli.annotate import annotate
from job.cli.requests import open_addresses, plan_request
from job.errors import UsageError
from job.plan.plan import read_plan
from job.plan.planner import plan_now
from job.plan.selection import Selection
from job.plan.spool import SpooledSelection
from job.run.heartbeat import Heartbeat
from job.run.run import Run, find_run, list_runs, read_end
from job.storage.open import Address, new_process_id, read_storage_options
from job.storage.store import Store, refusals_are_configuration
from job.system.signals import ended_by_signals
from job.tools.progress import read_progress
from job.worker.runner import AnnotateRequest, begin_run
from k8s.api_objects import COMPONENT_LABEL, POOL_LABEL, Job, has_condition
from k8s.cluster import Cluster
from k8s.helm import Helm, set_flags
from k8s.release import Release
from k8s.storage_access import call_with_timeout, output_address, storage_options

logger = logging.getLogger(__name__)

PLAN_FIRST_INPUTS = 1_000_000
"""Listing more inputs takes minutes, in which index 0 of the `gpu` pool would hold an idle GPU."""
_LOCATION_FLAGS = ("input_top_dir", "out_top_dir", "model", "input_list", "classes")
_JOB = msgspec.json.Decoder(Job, strict=False)


@dataclass(frozen=True)
class Chart:
    """A chart with the values for a release.

    Attributes:
        release: Name of the release.
        location: Location of the chart.
        arguments: Arguments of helm: files of values and single values.
        installed: The arguments that hold the values of the installed release; empty if it is not installed.
    """

    release: str
    location: str
    arguments: tuple[str, ...]
    installed: tuple[str, ...] = ()

    def with_values(self, values: Mapping[str, object]) -> Chart:
        """A copy with these values added."""
        return replace(self, arguments=(*self.arguments, *set_flags(values)))


@dataclass(frozen=True)
class StorageOptions:
    """JSON files of fsspec options for this machine."""

    source: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Work:
    """Work left in a run.

    Attributes:
        images: Inputs to do.
        is_planned: Whether the run has a plan.
        follows_end: Whether it is another pass after a run that has ended.
        is_empty: Whether the selection has no input at all, done or not.
        listed: The inputs, or None of a run with a plan.
    """

    images: int
    is_planned: bool
    follows_end: bool = False
    is_empty: bool = False
    listed: SpooledSelection | None = field(default=None, compare=False)

    @property
    def is_nothing(self) -> bool:
        """Whether another pass would process no input."""
        return self.follows_end and not self.is_planned and self.images == 0


def render(helm: Helm, chart: Chart) -> Release:
    """Render the release.

    Raises:
        UsageError: The chart refuses the values, or both pools are off.
    """
    documents = yaml.safe_load_all(helm.render(chart.release, chart.location, chart.arguments))
    jobs = [_JOB.decode(msgspec.json.encode(one)) for one in documents if one and one.get("kind") == "Job"]
    pools = {
        job.metadata.labels[POOL_LABEL]: job for job in jobs if job.metadata.labels.get(COMPONENT_LABEL) == "worker"
    }
    if not pools:
        raise UsageError(f"release {chart.release} has no pool: set pools.gpu.enabled or pools.cpu.enabled")
    return Release(chart.release, helm.namespace, pools)


def installed_run(helm: Helm, chart: Chart) -> str | None:
    """Name of the run of the installed release, or None."""
    if not chart.installed:
        return None
    try:
        return render(helm, replace(chart, arguments=chart.installed)).run
    except UsageError:  # an export, or values of another chart version
        return None


def has_no_volumes(release: Release) -> bool:
    """Whether planning can read everything from here: a path leads into a volume, which only pods can read."""
    return not any(
        argument.startswith(tuple(f"--{flag}=/" for flag in _LOCATION_FLAGS)) for argument in release.arguments
    )


def next_pass(release: Release, options: StorageOptions, *, is_patient: bool = True) -> str | None:
    """First part of the run's name for another pass if this run has ended; None to resume this run.

    An output on a volume cannot be read from here; see `check_jobs_can_resume`.

    Args:
        release: Release of the run.
        options: Storage options of this machine.
        is_patient: Whether to retry for minutes; else for `STORAGE_TIMEOUT_S`.

    Raises:
        StorageError: The output is unreachable.
    """
    if release.has_output_on_volume:
        return None
    if is_patient:
        return _next_name(release, options)
    return call_with_timeout(lambda: _next_name(release, options))


def _next_name(release: Release, options: StorageOptions) -> str | None:
    base, _, pinned = release.run.rpartition("-")
    store = output_address(release, read_storage_options(options.target)).open(new_process_id())
    try:
        if not _has_ended(store, release.run):
            return None
        stem, number = _numbered(base, list_runs(store))
        while _has_ended(store, f"{stem}-{number}-{pinned}"):
            number += 1
        return f"{stem}-{number}"
    finally:
        store.close()


def _numbered(base: str, runs: Iterable[str]) -> tuple[str, int]:
    """`night` to (night, 2); `night-2` to (night, 3) if a run `night` exists, else to (night-2, 2)."""
    stem, _, number = base.rpartition("-")
    is_later = stem and number.isdecimal() and any(run.rpartition("-")[0] == stem for run in runs)
    return (stem, int(number) + 1) if is_later else (base, 2)


def _has_ended(store: Store, run: str) -> bool:
    return read_end(store, run) is not None


def check_jobs_can_resume(cluster: Cluster, release: Release) -> None:
    """Check that installing the release would start pods: a Job that has ended never starts any.

    Raises:
        UsageError: The Jobs of these values have ended, or one of them has completed the run.
    """
    found = [cluster.job(job.metadata.name) for job in release.jobs.values()]
    jobs = [job for job in found if job is not None]
    is_done = any(has_condition(job.status.conditions, "Complete") for job in jobs)
    if not is_done and (len(jobs) < len(found) or not all(job.has_ended for job in jobs)):
        return
    names = ", ".join(job.metadata.name for job in jobs)
    if is_done and release.has_output_on_volume:
        raise UsageError(
            f"run {release.run} is complete ({names}): for another pass give another name, --set run.name=…"
        )
    raise UsageError(
        f"{names} {'has' if len(jobs) == 1 else 'have'} ended, and run {release.run} has not: nothing would start. "
        f"Correct what `sam3-annotate status {release.name}` shows, run `sam3-annotate cancel {release.name}`, then "
        "submit again to resume the run"
    )


def find_work(release: Release, options: StorageOptions, *, keeps_listing: bool = False) -> Work:
    """Count the inputs to do; write nothing to the storage.

    Args:
        release: Release of the run.
        options: Storage options of this machine.
        keeps_listing: Whether the inputs are stored on this machine's disk, so that `make_plan` lists nothing.
    """
    with _request(release, options) as request:
        run = Run(request.target, release.run, request.spec)
        if (plan := read_plan(run)) is not None:
            left = read_progress(request.target, run.name).left if plan.inputs_planned else 0
            return Work(left, is_planned=True, is_empty=plan.inputs_listed == 0)
        find_run(request.target, request.spec, name=release.run, is_date_given=request.is_date_given)
        selection = Selection(run, request.source, input_list=request.input_list)
        listed = SpooledSelection(selection, keeps_lines=keeps_listing)
        return Work(listed.count, is_planned=False, is_empty=listed.inputs_listed == 0, listed=listed)


def make_plan(
    release: Release, options: StorageOptions, num_indexes: int, listed: SpooledSelection | None = None
) -> None:
    """Write the plan of the run.

    Args:
        release: Release of the run.
        options: Storage options of this machine.
        num_indexes: Indexes of its largest pool.
        listed: The inputs, if `find_work` has listed them.
    """
    with _request(release, options, num_indexes) as request:
        run = begin_run(request)
        with ended_by_signals(), Heartbeat(run, request.options):
            if read_plan(run) is None:
                plan = plan_now(run, request.source, request.options, request.input_list, listed)
                logger.info("Run %s: %d inputs in %d shards", run.name, plan.inputs_planned, plan.shards_planned)


@contextmanager
def _request(release: Release, options: StorageOptions, num_indexes: int = 1) -> Iterator[AnnotateRequest]:
    """The request that a pod of the release would make."""
    with refusals_are_configuration(is_planner=True):
        flags: dict[str, Any] = annotate.make_context("annotate", release.arguments).params
        flags |= {"num_indexes": num_indexes, "model_cache": None}
        source = storage_options(release, release.input_url, read_storage_options(options.source))
        addresses = Address(release.input_url, source), output_address(release, read_storage_options(options.target))
        model = storage_options(release, flags["model"] or "", {})
        folders = open_addresses(addresses, new_process_id(), model)
        try:
            yield plan_request(flags, folders)
        finally:
            folders.target.close()
