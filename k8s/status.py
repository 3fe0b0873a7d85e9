"""Status of a release as one value: progress in storage, state of the Jobs, failed pods, diagnostics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from job.redaction import public_url
from job.tools.progress import RunProgress
from k8s.api_objects import Job, Pod, count_of, has_condition, indexes_of
from k8s.release import Release

State = Literal[
    "complete", "too_many_failed", "superseded", "failed", "suspended", "queued", "starting", "planning", "working",
    "stalled", "ended_unseen",
]  # fmt: skip
PoolState = Literal["working", "suspended", "queued", "complete", "failed", "waiting"]
SHOWN_FAILURES = 20


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Status of a pool's Job.

    Attributes:
        job: Name of the Job.
        state: `waiting`: none of its pods runs. `queued`: Kueue has not admitted it.
        parallelism: Desired pods at a time.
        pods: Running and pending pods.
        completions: Indexes.
        indexes_done: Succeeded indexes.
        indexes_failed: Permanently failed indexes.
        pods_failed: Failed pods; evictions and drains do not count.
        reason: Why the Job failed.
    """

    job: str
    state: PoolState
    parallelism: int
    pods: int
    completions: int
    indexes_done: int
    indexes_failed: int
    pods_failed: int
    reason: str = ""


class PodFailure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A failed pod.

    Attributes:
        pool: Its pool.
        index: Its index.
        pod: Its name.
        exit_code: Exit code of its container, or None.
        is_final: Whether its index, or its Job, has failed permanently.
        last_words: Its termination message, else the reason of the kubelet.
    """

    pool: str
    index: int
    pod: str
    exit_code: int | None
    is_final: bool
    last_words: str


class ReleaseStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Status of a release.

    Attributes:
        release: Name of the release.
        namespace: Namespace of the release.
        run: Name of the run.
        output: Folder of the results.
        state: State in storage if the run has ended there, else the state of the Jobs. `ended_unseen`: a Job is
            complete, so all work is done, and storage could not be read.
        progress: Progress in storage; None if it could not be read.
        pools: Status by pool.
        failures: Failed pods: final ones first, then the newest; at most 20.
        warnings: Diagnostics, one sentence each.
    """

    release: str
    namespace: str
    run: str
    output: str
    state: State
    progress: RunProgress | None
    pools: dict[str, PoolStatus]
    failures: tuple[PodFailure, ...]
    warnings: tuple[str, ...]


def release_status(
    release: Release, pods: Sequence[Pod], progress: RunProgress | None, warnings: Iterable[str]
) -> ReleaseStatus:
    """Combine all observations of a release.

    Args:
        release: The release with its Jobs.
        pods: Its worker pods.
        progress: Progress in storage; None if it could not be read or the run has not begun.
        warnings: Diagnostics.
    """
    pools = {pool: _pool_status(job) for pool, job in sorted(release.jobs.items())}
    return ReleaseStatus(
        release=release.name,
        namespace=release.namespace,
        run=release.run,
        output=public_url(release.output_url),
        state=_state(pools, progress),
        progress=progress,
        pools=pools,
        failures=tuple(_failures(release, pods))[:SHOWN_FAILURES],
        warnings=tuple(warnings),
    )


def _pool_status(job: Job) -> PoolStatus:
    status = job.status
    reasons = [f"{one.reason}: {one.message}" for one in status.conditions if one.type == "Failed"]
    return PoolStatus(
        job=job.metadata.name,
        state=_pool_state(job),
        parallelism=job.spec.parallelism,
        pods=status.active,
        completions=job.spec.completions,
        indexes_done=count_of(status.completed_indexes),
        indexes_failed=count_of(status.failed_indexes),
        pods_failed=status.failed,
        reason=reasons[0] if reasons else "",
    )


def _pool_state(job: Job) -> PoolState:
    if has_condition(job.status.conditions, "Complete") or has_condition(job.status.conditions, "SuccessCriteriaMet"):
        return "complete"
    if has_condition(job.status.conditions, "Failed") or has_condition(job.status.conditions, "FailureTarget"):
        return "failed"
    if job.spec.suspend:
        return "queued" if job.queue else "suspended"
    return "working" if job.status.ready else "waiting"


def _state(pools: dict[str, PoolStatus], progress: RunProgress | None) -> State:
    if progress is not None and progress.state in {"succeeded", "too_many_failed", "superseded"}:
        return "complete" if progress.state == "succeeded" else progress.state
    states = {pool.state for pool in pools.values()}
    if progress is None and "complete" in states:
        return "ended_unseen"  # one pool completes only when no shard is left for the other
    if states <= {"failed", "complete"}:
        if "failed" in states:
            return "failed"
        return "stalled"
    if states <= {"failed", "complete", "suspended", "queued"}:
        return "queued" if "queued" in states else "suspended"
    if progress is None:
        return "working" if "working" in states else "starting"
    return "planning" if progress.state == "planning" else "working" if "working" in states else "starting"


def _failures(release: Release, pods: Iterable[Pod]) -> Iterable[PodFailure]:
    final = {
        pool: None if _pool_state(job) == "failed" else frozenset(indexes_of(job.status.failed_indexes))
        for pool, job in release.jobs.items()
    }
    failed = [_failure(pod, final[pod.pool]) for pod in _newest_first(pods) if _has_failed(pod) and pod.pool in final]
    return sorted(failed, key=lambda one: not one.is_final)


def _newest_first(pods: Iterable[Pod]) -> list[Pod]:
    return sorted(pods, key=lambda pod: pod.metadata.creation_timestamp, reverse=True)


def _has_failed(pod: Pod) -> bool:
    return pod.status.phase == "Failed"


def _failure(pod: Pod, final: frozenset[int] | None) -> PodFailure:
    ended = pod.terminated
    return PodFailure(
        pool=pod.pool,
        index=pod.index or 0,
        pod=pod.metadata.name,
        exit_code=None if ended is None else ended.exit_code,
        is_final=final is None or pod.index in final,
        last_words=last_words(pod),
    )


def last_words(pod: Pod) -> str:
    """Reason why a pod ended, on one line."""
    ended = pod.terminated
    disruption = next((one.message for one in pod.status.conditions if one.type == "DisruptionTarget"), "")
    parts = [disruption, pod.status.reason, pod.status.message]
    if ended is not None and ended.message.strip():
        parts = [disruption, ended.message.strip().splitlines()[-1]]
    elif ended is not None:
        parts.append(f"{ended.reason or 'ended'}, exit {ended.exit_code}")
    # The condition and the pod report an eviction in the same words.
    return ": ".join(dict.fromkeys(" ".join(part.split()) for part in parts if part))
