"""Diagnostics of pods, one sentence each."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from k8s.api_objects import Event, Node, Pod, Reference
from k8s.diagnostics import find_diagnostics
from tests.k8s.objects import NOW, condition, pod, time, waiting

OURS = frozenset({"night-gpu-0a1b2c3d"})


def node(name: str, *, ready: str) -> Node:
    raw = {"metadata": {"name": name}, "status": {"conditions": [condition("Ready", ready, "NodeStatusUnknown")]}}
    return msgspec.json.decode(msgspec.json.encode(raw), type=Node)


def found(pods: Iterable[Pod], *, events: Iterable[Event] = (), ready: str = "True") -> list[str]:
    return list(find_diagnostics(pods, events, OURS, lambda name: node(name, ready=ready), NOW))


def test_unschedulable_pods_are_counted_by_reason() -> None:
    reason = condition(
        "PodScheduled", "False", "Unschedulable", "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    )
    pods = [pod(index, "Pending", node="", conditions=[reason]) for index in range(3)]
    assert found(pods) == [
        "3 pods of pool gpu cannot be scheduled: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    ]


def test_an_image_that_cannot_be_pulled_is_named() -> None:
    pods = [pod(0, "Pending", containerStatuses=waiting("ImagePullBackOff", "Back-off pulling image"))]
    assert found(pods) == [
        "1 pod of pool gpu cannot start, ImagePullBackOff: image registry.example/it:1: Back-off pulling image"
    ]


def test_each_pool_and_reason_is_a_sentence() -> None:
    states = {"ErrImagePull": "not found", "InvalidImageName": "bad", "RunContainerError": "no such device"}
    pods = [
        pod(index, "Pending", pool=pool, containerStatuses=waiting(reason, message))
        for pool in ("cpu", "gpu")
        for index, (reason, message) in enumerate(states.items())
    ]
    assert found([*pods, *pods[:1]]) == [
        "2 pods of pool cpu cannot start, ErrImagePull: image registry.example/it:1: not found",
        "1 pod of pool cpu cannot start, InvalidImageName: image registry.example/it:1: bad",
        "1 pod of pool cpu cannot start, RunContainerError: no such device",
        "1 pod of pool gpu cannot start, ErrImagePull: image registry.example/it:1: not found",
        "1 pod of pool gpu cannot start, InvalidImageName: image registry.example/it:1: bad",
        "1 pod of pool gpu cannot start, RunContainerError: no such device",
    ]


def test_starting_pods_are_not_reported() -> None:
    scheduled = condition("PodScheduled")
    assert found([pod(0, "Pending", containerStatuses=waiting("ContainerCreating", ""), conditions=[scheduled])]) == []
    assert found([pod(0), pod(1, "Succeeded"), pod(2, "Failed")]) == []


def test_long_messages_are_cut_and_on_one_line() -> None:
    (told,) = found([pod(0, "Pending", containerStatuses=waiting("CreateContainerError", "no\n" * 200))])
    assert told.endswith("no no…")
    assert len(told) == len("1 pod of pool gpu cannot start, CreateContainerError: ") + 300


def test_a_missing_secret() -> None:
    pods = [pod(0, "Pending", containerStatuses=waiting("CreateContainerConfigError", 'secret "keys" not found'))]
    assert found(pods) == ['1 pod of pool gpu cannot start, CreateContainerConfigError: secret "keys" not found']


def test_late_deletions_name_the_unresponsive_node() -> None:
    stuck = [pod(index, deleted=time(120)) for index in range(2)]
    (told,) = found(stuck, ready="Unknown")
    assert told.startswith(
        "node gpu-0 is not responding; 2 pods on it still hold their indexes: run `kubectl delete node gpu-0`"
    )
    assert found(stuck, ready="True") == [], "its kubelet is at it"
    assert found([pod(0, deleted=time(1))], ready="Unknown") == [], "it may still answer"


def test_a_missing_or_forbidden_node_is_unresponsive() -> None:
    stuck = [pod(0, deleted=time(120)), pod(1, node="", deleted=time(120))]
    (told,) = find_diagnostics(stuck, [], OURS, lambda name: None, NOW)
    assert told.startswith("node gpu-0 is not responding; 1 pod on it")


def test_a_node_that_does_not_report_with_running_pods() -> None:
    silent = [condition("Ready", "False"), condition("ContainersReady")]
    assert found([pod(0, conditions=silent)]) == [
        "node gpu-0 does not report its status; 1 pod on it may still be running"
    ]
    assert found([pod(0, reason="NodeLost")]) == found([pod(0, conditions=silent)])
    assert found([pod(0, conditions=silent, deleted=time(1))]) == found([pod(0, conditions=silent)]), "until it is late"
    (late,) = found([pod(0, conditions=silent, deleted=time(120))], ready="Unknown")
    assert late.startswith("node gpu-0 is not responding")
    busy = [condition("Ready", "False", "ContainersNotReady"), condition("ContainersReady", "False")]
    assert found([pod(0, conditions=busy)]) == []


def event(job: str, message: str, reason: str = "FailedCreate") -> Event:
    return Event(involved_object=Reference(kind="Job", name=job), reason=reason, message=message)


def test_the_newest_reason_why_a_job_cannot_create_pods() -> None:
    events = [
        event("night-gpu-0a1b2c3d", "is forbidden: violates PodSecurity"),
        event("night-gpu-0a1b2c3d", "is forbidden: exceeded quota"),
        event("night-gpu-0a1b2c3d", "Job has reached the specified backoff limit", "BackoffLimitExceeded"),
        event("another", "is forbidden"),
    ]
    assert found([], events=events) == ["Job night-gpu-0a1b2c3d cannot create pods: is forbidden: exceeded quota"]
