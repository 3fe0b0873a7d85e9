"""`sam3-annotate status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click
import msgspec

from job.cli.flags import FILE
from job.cli.terminal import one_line
from job.errors import AnnotateError, ConfigurationError, TooManyFailedError, UsageError, WorkerError
from job.storage.open import read_storage_options
from job.telemetry.logs import set_up_logging
from job.tools.progress import RunProgress
from k8s.cli.flags import release_flags
from k8s.cluster import Cluster, ClusterError
from k8s.observe import observe
from k8s.status import PodFailure, PoolStatus, ReleaseStatus

_INTERVAL_S = 5.0
_REPAINT = "\x1b[H\x1b[2J"
_CONFIGURATION_EXIT_CODES = {UsageError.exit_code, ConfigurationError.exit_code}
_FAILED_BY_POLICY = "PodFailurePolicy:"
"""Reason of a Job that the FailJob rule of the chart ended: a pod exited with one of these codes."""
_TERMINAL_STATES = {"complete", "too_many_failed", "superseded", "failed", "stalled", "ended_unseen"}


@click.command()
@release_flags
@click.option(
    "--output_storage_options", type=FILE, help="JSON file of fsspec options for the output, as seen from here."
)
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format.")
@click.option("--watch", is_flag=True, help="Show it repeatedly until the end or Ctrl-C.")
@click.option("--wait", is_flag=True, help="Wait for the end; the exit code is its outcome.")
def status(release: str, namespace: str | None, kube_context: str | None, **flags: Any) -> None:
    """Show the status of RELEASE: progress in storage, pools, failed pods with their reasons, diagnostics.

    The storage decides whether a run is complete, not the state of a Job. With --wait the exit code is 0 for complete,
    65 for too many failed inputs, 78 or 70 for failed Jobs.
    """
    set_up_logging("ERROR", "text")
    options, is_waiting = read_storage_options(flags["output_storage_options"]), flags["watch"] or flags["wait"]
    cluster = Cluster(namespace, kube_context)
    shown, outage = None, _Outage()
    # With --wait Ctrl-C must not look like the end of the run.
    with nullcontext() if flags["wait"] else suppress(KeyboardInterrupt):
        while True:
            found = _observe(cluster, release, options, outage)
            outage.is_patient = True
            if found is not None and (flags["watch"] or shown is None or found.state in _TERMINAL_STATES):
                _show(found, flags["output"], is_repainted=flags["watch"] and sys.stdout.isatty())
            shown = found or shown
            if not is_waiting or (found is not None and found.state in _TERMINAL_STATES):
                break
            time.sleep(_INTERVAL_S)
    if flags["wait"] and shown is not None:
        _raise_on_failure(shown)


@dataclass
class _Outage:
    """Whether an unreachable API server is waited for, and whether that was said."""

    is_patient: bool = False
    is_told: bool = False


def _observe(cluster: Cluster, release: str, options: Mapping[str, object], outage: _Outage) -> ReleaseStatus | None:
    """The status; None if the API server is unreachable after a first success, which is said once."""
    try:
        found = observe(cluster, release, options)
    except ClusterError as exc:
        if not outage.is_patient:
            raise
        if not outage.is_told:
            click.echo(f"Warning: {one_line(str(exc))}; waiting for it", err=True)
        outage.is_told = True
        return None
    outage.is_told = False
    return found


def _show(found: ReleaseStatus, output: str, *, is_repainted: bool) -> None:
    if output == "json":
        click.echo(msgspec.json.encode(found))
    else:
        click.echo((_REPAINT if is_repainted else "") + "\n".join(one_line(line) for line in lines_of(found)))


def _raise_on_failure(found: ReleaseStatus) -> None:
    """Raise the error of a release that has ended without success.

    Raises:
        TooManyFailedError: More inputs failed than allowed, or the input is empty.
        ConfigurationError: The run was superseded, or its Jobs failed with an error that no retry corrects.
        WorkerError: Its Jobs failed otherwise, or ended with work left.
    """
    # The run of an empty input is complete, and with --fail_if_empty its pods exit with 65.
    is_refused = any(one.is_final and one.exit_code == TooManyFailedError.exit_code for one in found.failures)
    if found.state in {"complete", "ended_unseen"} and not is_refused:
        return
    if found.state == "too_many_failed":
        raise TooManyFailedError(f"run {found.run} has ended with too many failed inputs")
    if found.state == "superseded":
        raise ConfigurationError(f"run {found.run} was superseded by another run: see `sam3-annotate progress`")
    raise _error_of(found)


def _error_of(found: ReleaseStatus) -> AnnotateError:
    """Error by the exit codes of the finally failed pods, else by the reasons of the Jobs, whose pods may be gone."""
    final = [one for one in found.failures if one.is_final]
    refused = [one for one in final if one.exit_code in _CONFIGURATION_EXIT_CODES]
    words = next((one.last_words for one in refused or final), "")
    reasons = " ".join(pool.reason for pool in found.pools.values() if pool.reason)
    is_configuration = refused or any(pool.reason.startswith(_FAILED_BY_POLICY) for pool in found.pools.values())
    kind: type[AnnotateError] = ConfigurationError if is_configuration else WorkerError
    if not is_configuration and any(one.exit_code == TooManyFailedError.exit_code for one in final):
        kind = TooManyFailedError
    advice = f"rerun `sam3-annotate submit {found.release}` to resume"
    return kind(f"release {found.release} is {found.state}: {words or reasons or advice}")


_STATES = {
    "complete": "complete: every input is annotated, or failed with a recorded reason",
    "too_many_failed": "ended: more inputs failed than allowed",
    "superseded": "ended: superseded by another run",
    "failed": "FAILED: no Job can continue",
    "suspended": "suspended: run `sam3-annotate resume` to continue",
    "queued": "queued: Kueue has not admitted it yet",
    "starting": "starting: no pod is working yet",
    "stalled": "STALLED: all Jobs finished but the run is incomplete; rerun `submit` to continue",
    "ended_unseen": "a Job is complete, so all work is done; see the output for failed inputs",
}


def lines_of(status: ReleaseStatus) -> Iterator[str]:
    """The lines that `status` prints."""
    yield f"Release {status.release} in namespace {status.namespace}: {_STATES.get(status.state, status.state)}"
    yield f"Run     {status.run}, into {status.output}"
    if status.progress is not None:
        yield from _progress_lines(status.progress)
    yield ""
    yield f"{'POOL':<6}{'STATE':<11}{'PODS':<11}{'INDEXES DONE':<15}{'FAILED':<8}{'PODS FAILED':<13}JOB"
    for name, pool in status.pools.items():
        yield _pool_line(name, pool)
    for name, pool in status.pools.items():
        if pool.reason:
            yield f"Pool {name} failed: {pool.reason}"
    if status.failures:
        yield ""
    for failure in status.failures:
        yield _failure_line(failure)
    if status.warnings:
        yield ""
    for warning in status.warnings:
        yield f"Warning: {warning}"


def _progress_lines(progress: RunProgress) -> Iterator[str]:
    share = f" ({100 * progress.done / progress.planned:.1f} %)" if progress.planned else ""
    before = f"; {progress.inputs_done_before} were done before" if progress.inputs_done_before else ""
    yield f"Done    {progress.done} of {progress.planned}{share}, {progress.failed} failed{before}"
    if progress.other_options:
        yield f"Kept    results of earlier runs, with another {' and '.join(progress.other_options)}"
    if progress.left and not progress.images_per_s:
        yield "Rate    not known yet: workers report it every 30 s"
    elif progress.left:
        eta = "" if progress.eta_s is None else f", {timedelta(seconds=round(progress.eta_s))} to go"
        yield f"Rate    {progress.images_per_s:.2f} images/s{eta}"


def _pool_line(name: str, pool: PoolStatus) -> str:
    pods = f"{pool.pods} of {pool.parallelism}"
    done = f"{pool.indexes_done} of {pool.completions}"
    return f"{name:<6}{pool.state:<11}{pods:<11}{done:<15}{pool.indexes_failed:<8}{pool.pods_failed:<13}{pool.job}"


def _failure_line(failure: PodFailure) -> str:
    # Another pod may have retried the index, or completed it.
    final = "failed permanently" if failure.is_final else "failed, not final"
    return f"Index {failure.index} of {failure.pool} {final}: {failure.last_words} ({failure.pod})"
