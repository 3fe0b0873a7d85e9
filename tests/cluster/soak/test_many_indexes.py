"""A thousand indexes on simulated nodes: size of the objects and requests to the API server."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kubernetes.client import V1Node

from tests.chart.rendering import Values, merged
from tests.cluster.access import Cluster, has_condition, report
from tests.cluster.release import NAME, Release, base_values, only

INDEXES = int(os.environ.get("INDEXES", "1000"))
NODES = 50
LARGEST_JOB_BYTES = 100_000
"""etcd takes objects up to 1.5 MB."""

ON_FAKE_NODES: Values = {
    "pools": {
        "cpu": {
            "completions": INDEXES,
            "parallelism": INDEXES,
            "nodeSelector": {"type": "fake"},
            "affinity": {"podAntiAffinity": {}},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": 1, "memory": "64Mi"}},
        }
    },
    "podAnnotations": {"fake/duration": "30s"},
}


_COUNTED = re.compile(
    r'apiserver_request_total\{.*?[{,]resource="(jobs|pods|events)".*?subresource="(\w*)".*?verb="(\w+)"[^}]*\} (\S+)'
)


def requests() -> Counter[str]:
    """Requests by verb and resource since the API server started, without those of the tests."""
    command = ["kubectl", "get", "--raw", "/metrics"]
    metrics = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts: Counter[str] = Counter()
    for resource, part, verb, count in _COUNTED.findall(metrics):
        if resource != "jobs" or verb not in {"GET", "LIST"}:
            counts[f"{verb} {resource}{part and '/'}{part}"] += int(float(count))
    return counts


@contextmanager
def fake_nodes(kit: Cluster) -> Iterator[None]:
    kit.run_kit("fake-nodes", str(NODES))
    try:
        yield
    finally:
        fakes: list[V1Node] = kit.core.list_node(label_selector="type=fake").items
        for node in fakes:
            kit.core.delete_node(node.metadata.name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("alone")
def test_a_thousand_indexes(kit: Cluster, release: Release) -> None:
    with fake_nodes(kit):
        before, begun = requests(), time.monotonic()
        release.install(merged(base_values(kit, release.location), only("cpu"), ON_FAKE_NODES))
        largest = 0

        def is_over() -> bool:
            nonlocal largest
            raw = kit.batch.read_namespaced_job(
                release.job("cpu").metadata.name, release.namespace, _preload_content=False
            )
            largest = max(largest, len(raw.data))
            return has_condition(release.job("cpu"), "Complete")

        looked = time.monotonic()
        release.annotator("status", NAME, "-n", release.namespace, "-o", "json")
        looked_s = time.monotonic() - looked
        release.wait_for(is_over, 900, f"{INDEXES} indexes")
        lasted_s = time.monotonic() - begun
        asked = requests() - before
    report(
        f"{INDEXES} indexes in {lasted_s:.0f} s; Job at most {largest:,} bytes; status {looked_s:.1f} s; "
        f"{asked.total() / INDEXES:.1f} requests an index, {asked.total() / lasted_s:.0f} a second: "
        f"{dict(asked.most_common(12))}",
        release.namespace,
    )
    assert release.job("cpu").status.completed_indexes == f"0-{INDEXES - 1}"
    assert largest < LARGEST_JOB_BYTES
