"""API objects of Kubernetes 1.34, reduced to the fields that differ between tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from k8s.api_objects import Job, Pod
from k8s.release import Release

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ARGS = [
    "annotate", "--input_top_dir=s3://pictures/in", "--out_top_dir=s3://pictures/$$(odd)", "--run=night-1a2b3c4d",
]  # fmt: skip


def time(seconds_ago: float = 0) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).isoformat().replace("+00:00", "Z")


def condition(kind: str, status: str = "True", reason: str = "", message: str = "") -> dict[str, Any]:
    """A condition, with fields that are not read."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": time(),
        "lastProbeTime": None,
    }


def labels(pool: str, **more: str) -> dict[str, str]:
    """Labels of a worker of a pool."""
    return {
        "app.kubernetes.io/instance": "night",
        "app.kubernetes.io/component": "worker",
        "sam3-annotate/pool": pool,
        "sam3-annotate/run": "night-1a2b3c4d",
        **more,
    }


def job(
    pool: str,
    *,
    args: Sequence[str] = ARGS,
    suspend: bool = False,
    queue: str = "",
    conditions: tuple[dict[str, Any], ...] = (),
    **status: Any,
) -> Job:
    container = {"name": "annotate", "args": args, "env": [{"name": "AWS_REGION", "value": "eu-1"}, {"name": "KEY"}]}
    raw = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"night-{pool}-0a1b2c3d",
            "namespace": "garage",
            "uid": "1",
            "labels": labels(pool, **({"kueue.x-k8s.io/queue-name": queue} if queue else {})),
            "creationTimestamp": time(3600),
            "managedFields": [{"manager": "helm"}],
        },
        "spec": {
            "completions": 8,
            "parallelism": 2,
            "suspend": suspend,
            "completionMode": "Indexed",
            "template": {"spec": {"containers": [container]}},
        },
        "status": {"conditions": list(conditions), "uncountedTerminatedPods": {}, **status},
    }
    return msgspec.json.decode(msgspec.json.encode(raw), type=Job)


def pod(
    index: int,
    phase: str = "Running",
    *,
    pool: str = "gpu",
    node: str = "gpu-0",
    deleted: str | None = None,
    **status: Any,
) -> Pod:
    raw = {
        "metadata": {
            "name": f"night-{pool}-{index}",
            "labels": labels(pool, **{"batch.kubernetes.io/job-completion-index": str(index)}),
            "creationTimestamp": time(600 - index),
            "deletionTimestamp": deleted,
        },
        "spec": {"nodeName": node, "containers": [{"name": "annotate", "image": "registry.example/it:1"}]},
        "status": {"phase": phase, "qosClass": "Burstable", **status},
    }
    return msgspec.json.decode(msgspec.json.encode(raw), type=Pod)


def ended(code: int, reason: str = "Error", message: str | None = None) -> list[dict[str, Any]]:
    """Status of a terminated container."""
    state = {"exitCode": code, "reason": reason, "finishedAt": time(60), "containerID": "containerd://1"}
    return [
        {
            "name": "annotate",
            "restartCount": 0,
            "state": {"terminated": state | ({"message": message} if message else {})},
        }
    ]


def waiting(reason: str, message: str) -> list[dict[str, Any]]:
    """Status of a container that has not started."""
    return [{"name": "annotate", "state": {"waiting": {"reason": reason, "message": message}}}]


def release(**jobs: Job) -> Release:
    return Release("night", "garage", jobs)
