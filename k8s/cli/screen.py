"""The screen of `sam3-annotate status`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from job.tools.progress import RunProgress
from k8s.status import PodFailure, PoolStatus, ReleaseStatus

_STATES = {
    "complete": "complete: every input is annotated, or has failed with a reason",
    "too_many_failed": "ended: more inputs failed than allowed",
    "superseded": "ended: another run has taken its place",
    "failed": "FAILED: no Job is left to go on",
    "suspended": "suspended: `sam3-annotate resume` goes on",
    "queued": "queued: Kueue has not let it in yet",
    "starting": "starting: no pod is at work yet",
    "stalled": "STALLED: the Jobs have ended, the run has not; install it again to go on",
    "ended_unseen": "a Job is complete, so everything is done; whether inputs have failed, the output tells",
}


def lines_of(status: ReleaseStatus) -> Iterator[str]:
    """The screen, line by line."""
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
            yield f"Pool {name} has failed: {pool.reason}"
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
        yield f"Kept    what was done before, with another {' and '.join(progress.other_options)}"
    if progress.left and not progress.images_per_s:
        yield "Rate    not known yet: workers tell it every 30 s"
    elif progress.left:
        eta = "" if progress.eta_s is None else f", {timedelta(seconds=round(progress.eta_s))} to go"
        yield f"Rate    {progress.images_per_s:.2f} images/s{eta}"


def _pool_line(name: str, pool: PoolStatus) -> str:
    pods = f"{pool.pods} of {pool.parallelism}"
    done = f"{pool.indexes_done} of {pool.completions}"
    return f"{name:<6}{pool.state:<11}{pods:<11}{done:<15}{pool.indexes_failed:<8}{pool.pods_failed:<13}{pool.job}"


def _failure_line(failure: PodFailure) -> str:
    # Another pod may be at the index by now, or have done it.
    final = "failed for good" if failure.is_final else "failed, not for good"
    return f"Index {failure.index} of {failure.pool} {final}: {failure.last_words} ({failure.pod})"
