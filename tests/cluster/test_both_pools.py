"""`helm install` of both pools, undisturbed."""

from __future__ import annotations

import time

import pytest
from kubernetes.client.exceptions import ApiException

from tests.chart.rendering import Values, merged
from tests.cluster.access import Cluster, is_over, report
from tests.cluster.locations import check_complete, shards_by_pool
from tests.cluster.release import NAME, Release, base_values


def test_both_pools_annotate_everything(
    cluster: Cluster, release: Release, gpu: Values, quiet: dict[str, bytes]
) -> None:
    begun = time.monotonic()
    release.install(merged(base_values(cluster, release.location), gpu))
    release.wait_for_end()
    report(f"{len(quiet) // 3} images in {time.monotonic() - begun:.0f} s", release.namespace)

    check_complete(release.location, release.run, quiet)
    made = shards_by_pool(release.location, release.run)
    report(f"shards: {dict(made)}", release.namespace)
    assert made["gpu"] >= 1
    assert made["cpu"] >= 1
    assert {pod.spec.node_name for pod in release.pods("gpu")} <= set(cluster.gpu_nodes())
    assert {pod.spec.node_name for pod in release.pods("cpu")} <= set(cluster.cpu_nodes())
    check_restricted(cluster, release)
    release.wait_for(lambda: all(is_over(job) for job in release.jobs().values()), 60, "Jobs end")
    assert set(release.codes()) == {0}
    tested = release.helm("test", NAME, "--logs").stdout
    assert "Succeeded" in tested
    assert "one image" in tested


def check_restricted(cluster: Cluster, release: Release) -> None:
    """The namespace refuses what is not restricted; our pods were let in."""
    bare = {"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "bare", "image": cluster.image}]}}
    with pytest.raises(ApiException, match="PodSecurity"):
        cluster.core.create_namespaced_pod(release.namespace, bare)
    for pod in cluster.core.list_namespaced_pod(release.namespace).items:
        (only,) = pod.spec.containers
        assert only.security_context.read_only_root_filesystem is True
