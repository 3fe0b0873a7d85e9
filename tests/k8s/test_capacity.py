"""Pods that a cluster can never run are told before anything is installed."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.capacity import capacity_warnings
from k8s.cluster import Cluster
from k8s.release import Release
from k8s.submission import Chart, render
from tests.chart.rendering import ON_S3
from tests.k8s.api import Api
from tests.k8s.charts import LibraryHelm

BIG = {"cpu": "8", "memory": "32Gi", "pods": "110"}


def node(name: str, allocatable: dict[str, str], *, taint: str = "", **labels: str) -> dict[str, Any]:
    taints = [{"key": taint, "value": "present", "effect": "NoSchedule"}] if taint else []
    return {
        "metadata": {"name": name, "labels": {key.replace("__", "/"): value for key, value in labels.items()}},
        "spec": {"taints": taints},
        "status": {"allocatable": allocatable},
    }


def gpu_node(**more: str) -> dict[str, Any]:
    made = node("gpu-0", {**BIG, "nvidia.com/gpu": "1", **more}, taint="nvidia.com/gpu")
    made["metadata"]["labels"]["nvidia.com/gpu.present"] = "true"
    return made


@pytest.fixture
def submitted() -> Release:
    given = [f"--set={key}={value}" for key, value in _flat(ON_S3)]
    return render(LibraryHelm("garage"), Chart("night", "charts/sam3-annotate", tuple(given)))


def _flat(values: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in values.items():
        found += _flat(value, f"{path}{key}.") if isinstance(value, dict) else [(f"{path}{key}", str(value))]
    return found


def test_pods_that_fit_are_no_warning(api: Api, submitted: Release) -> None:
    api.nodes = {one["metadata"]["name"]: one for one in (gpu_node(), node("cpu-0", BIG))}

    assert capacity_warnings(Cluster(), submitted) == ()


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([], ["pool gpu (0 nodes: the cluster has none)", "pool cpu (0 nodes"]),
        ([gpu_node()], ["pool cpu (1 nodes: 1 excluded by the affinity of the pool)"]),
        ([node("cpu-0", BIG)], ["pool gpu (1 nodes: 1 with less than nvidia.com/gpu 1)"]),
        ([gpu_node(memory="8Gi"), node("cpu-0", BIG)], ["pool gpu (2 nodes:", "less than memory 16Gi"]),
        (
            [gpu_node(), node("cpu-0", BIG, taint="reserved")],
            ["pool cpu (2 nodes:", "with taint reserved, which the pool does not tolerate"],
        ),
    ],
    ids=["no node", "no cpu node", "no gpu", "small", "tainted"],
)
def test_pods_that_no_node_takes_are_told(
    nodes: list[dict[str, Any]], words: list[str], api: Api, submitted: Release
) -> None:
    api.nodes = {one["metadata"]["name"]: one for one in nodes}
    told = " ".join(capacity_warnings(Cluster(), submitted))

    assert [word for word in words if word not in told] == []


def test_quotas_and_limits_of_the_namespace_are_told(api: Api, submitted: Release) -> None:
    api.nodes = {one["metadata"]["name"]: one for one in (gpu_node(), node("cpu-0", BIG))}
    hard = {"requests.cpu": "12", "limits.memory": "200Gi", "pods": "3", "requests.nvidia.com/gpu": "4"}
    used = {"requests.cpu": "2", "pods": "0"}
    api.quotas = [{"metadata": {"name": "team"}, "status": {"hard": hard, "used": used}}]
    limits = [
        {"type": "Container", "max": {"memory": "14Gi"}, "min": {"cpu": "100m"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
    ]
    api.limit_ranges = [{"metadata": {"name": "small"}, "spec": {"limits": limits}}]
    told = capacity_warnings(Cluster(), submitted)

    assert told == (
        "LimitRange small allows at most memory 14Gi a container, a pod of pool gpu asks for memory 16Gi: its pods "
        "will be refused",
        "ResourceQuota team has 10 of requests.cpu left, all pods at a time ask for 16: fewer will run",
        "ResourceQuota team has 3 of pods left, all pods at a time ask for 4: fewer will run",
    )


def test_what_this_user_may_not_read_is_told(api: Api, submitted: Release) -> None:
    api.refused = {"nodes", "resourcequotas"}

    told = capacity_warnings(Cluster(), submitted)

    assert "may not list nodes" in told[0]
    assert "may not list resourcequotas" in told[1]
