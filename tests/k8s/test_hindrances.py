"""What keeps pods from working, in a sentence each."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from k8s.hindrances import find_hindrances
from k8s.objects import Event, Node, Pod, Reference
from tests.k8s.objects import NOW, condition, pod, time, waiting

OURS = frozenset({"night-gpu-0a1b2c3d"})


def node(name: str, *, ready: str) -> Node:
    raw = {"metadata": {"name": name}, "status": {"conditions": [condition("Ready", ready, "NodeStatusUnknown")]}}
    return msgspec.json.decode(msgspec.json.encode(raw), type=Node)


def found(pods: Iterable[Pod], *, events: Iterable[Event] = (), ready: str = "True") -> list[str]:
    return list(find_hindrances(pods, events, OURS, lambda name: node(name, ready=ready), NOW))


def test_pods_that_fit_nowhere_are_counted_by_reason() -> None:
    reason = condition(
        "PodScheduled", "False", "Unschedulable", "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    )
    pods = [pod(index, "Pending", node="", conditions=[reason]) for index in range(3)]
    assert found(pods) == [
        "3 pods of pool gpu wait for a node: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    ]


def test_an_image_that_cannot_be_pulled_is_named() -> None:
    pods = [pod(0, "Pending", containerStatuses=waiting("ImagePullBackOff", "Back-off pulling image"))]
    assert found(pods) == [
        "1 pod of pool gpu cannot start, ImagePullBackOff: image registry.example/it:1: Back-off pulling image"
    ]


def test_a_secret_that_is_not_there() -> None:
    pods = [pod(0, "Pending", containerStatuses=waiting("CreateContainerConfigError", 'secret "keys" not found'))]
    assert found(pods) == ['1 pod of pool gpu cannot start, CreateContainerConfigError: secret "keys" not found']


def test_pods_that_do_not_go_name_their_dead_node() -> None:
    stuck = [pod(index, deleted=time(120)) for index in range(2)]
    (told,) = found(stuck, ready="Unknown")
    assert told.startswith("node gpu-0 looks dead, and 2 pods on it hold their indexes: `kubectl delete node gpu-0`")
    assert found(stuck, ready="True") == [], "its kubelet is at it"
    assert found([pod(0, deleted=time(1))], ready="Unknown") == [], "it may still answer"


def test_a_silent_node_whose_pods_may_be_at_work() -> None:
    silent = [condition("Ready", "False"), condition("ContainersReady")]
    assert found([pod(0, conditions=silent)]) == ["node gpu-0 does not report; 1 pod on it may be at work all the same"]
    busy = [condition("Ready", "False", "ContainersNotReady"), condition("ContainersReady", "False")]
    assert found([pod(0, conditions=busy)]) == []


def test_jobs_that_may_not_create_pods_only_ours() -> None:
    events = [
        Event(
            involved_object=Reference(kind="Job", name=name),
            reason="FailedCreate",
            message="pods is forbidden: exceeded quota",
        )
        for name in ("night-gpu-0a1b2c3d", "another")
    ]
    assert found([], events=events) == ["Job night-gpu-0a1b2c3d cannot create pods: pods is forbidden: exceeded quota"]
