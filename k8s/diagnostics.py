"""Diagnostics: reasons why pods of a release do not run, each as one sentence with what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from k8s.api_objects import Event, Node, Pod, has_condition

DELETION_GRACE = timedelta(seconds=15)
"""A pod that still exists so long after its grace period is on a node that is not responding."""
_IMAGE_REASONS = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"}
_START_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_MAX_LENGTH = 300


def find_diagnostics(
    pods: Iterable[Pod],
    events: Iterable[Event],
    jobs: frozenset[str],
    node_of: Callable[[str], Node | None],
    now: datetime,
) -> Iterator[str]:
    """Find scheduling, start, node and creation failures.

    Args:
        pods: Worker pods of a release.
        events: Warning events about Jobs of the namespace.
        jobs: Names of the Jobs of the release that run fewer pods than they ask for.
        node_of: Returns a node by name.
        now: Current time.
    """
    seen = list(pods)
    yield from _unschedulable(seen)
    yield from _not_started(seen)
    yield from _on_unresponsive_nodes(seen, node_of, now)
    yield from _not_created(events, jobs)


def _unschedulable(pods: Iterable[Pod]) -> Iterator[str]:
    found: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        for one in pod.status.conditions:
            if pod.status.phase == "Pending" and one.type == "PodScheduled" and one.reason == "Unschedulable":
                found[pod.pool, one.message] += 1
    for (pool, message), count in found.items():
        yield f"{_pods(count)} of pool {pool} cannot be scheduled: {_cut(message)}"


def _not_started(pods: Iterable[Pod]) -> Iterator[str]:
    found: dict[tuple[str, str], tuple[str, str]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        waiting = pod.waiting
        if waiting is not None and waiting.reason in _IMAGE_REASONS | _START_REASONS:
            counts[pod.pool, waiting.reason] += 1
            found.setdefault((pod.pool, waiting.reason), (pod.spec.containers[0].image, waiting.message))
    for (pool, reason), (image, message) in found.items():
        what = f"image {image}: " if reason in _IMAGE_REASONS else ""
        yield f"{_pods(counts[pool, reason])} of pool {pool} cannot start, {reason}: {what}{_cut(message)}"


def _on_unresponsive_nodes(pods: Iterable[Pod], node_of: Callable[[str], Node | None], now: datetime) -> Iterator[str]:
    late: Counter[str] = Counter()
    cut_off: Counter[str] = Counter()
    for pod in pods:
        # deletionTimestamp is the end of the grace period.
        deleted = pod.metadata.deletion_timestamp
        if deleted is not None and pod.spec.node_name and now - deleted > DELETION_GRACE:
            late[pod.spec.node_name] += 1
        elif pod.status.phase == "Running" and _is_lost(pod):
            cut_off[pod.spec.node_name] += 1
    for name, count in late.items():
        node = node_of(name)
        if node is None or not node.is_ready:
            held = "holds its index" if count == 1 else "hold their indexes"
            yield (
                f"node {name} is not responding; {_pods(count)} on it still {held}: "
                f"run `kubectl delete node {name}` if the node is gone for good, or `kubectl taint node {name} "
                "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute` after it is shut down"
            )
    for name, count in cut_off.items():
        yield f"node {name} does not report its status; {_pods(count)} on it may still be running"


def _is_lost(pod: Pod) -> bool:
    """Whether the node controller has marked the pod because its node does not report."""
    return pod.status.reason == "NodeLost" or (
        any(one.type == "Ready" and one.status == "False" and one.reason == "" for one in pod.status.conditions)
        and has_condition(pod.status.conditions, "ContainersReady")
    )


def _not_created(events: Iterable[Event], jobs: frozenset[str]) -> Iterator[str]:
    newest = {event.involved_object.name: event for event in events if event.reason == "FailedCreate"}
    for name, event in newest.items():
        if name in jobs:
            yield f"Job {name} cannot create pods: {_cut(event.message)}"


def _pods(count: int) -> str:
    return f"{count} pod" if count == 1 else f"{count} pods"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 1]}…"
