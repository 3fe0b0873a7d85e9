"""One pool without the other: no GPU node, no CPU pool, an image that cannot use its GPU."""

from __future__ import annotations

import json
import os

import pytest

from tests.chart.rendering import Values, merged
from tests.cluster.access import Cluster, has_condition, is_over
from tests.cluster.locations import check_complete, check_outputs, shards_by_pool
from tests.cluster.release import NAME, Release, base_values, only, slow

NO_SUCH_GPU: Values = {"gpu": {"resourceName": "example.com/gpu"}}


def test_the_cpu_pool_completes_the_run_without_a_gpu_node(
    cluster: Cluster, release: Release, quiet: dict[str, bytes]
) -> None:
    release.install(merged(base_values(cluster, release.location), NO_SUCH_GPU))
    release.wait_for(lambda: any("cannot be scheduled" in one for one in release.status()["warnings"]), 60, "a warning")
    release.wait_for_end()
    check_complete(release.location, release.run, quiet)

    release.wait_for(lambda: release.job("gpu").spec.suspend, 120, "the gpu Job suspended")
    release.wait_for(lambda: has_condition(release.job("cpu"), "Complete"), 60, "the cpu Job complete")
    told = release.status()
    assert (told["state"], told["pools"]["gpu"]["state"]) == ("complete", "suspended")
    assert told["progress"]["failed"] == 1
    assert release.annotator("status", NAME, "-n", release.namespace, "--wait").returncode == 0

    check_upgrades_after_the_janitor(release)
    check_outputs(release.location, quiet)


def check_upgrades_after_the_janitor(release: Release) -> None:
    """The janitor's patch conflicts with no later upgrade, and the next pass does not start suspended."""
    before = {pool: job.metadata.uid for pool, job in release.jobs().items()}
    release.upgrade()
    assert {pool: job.metadata.uid for pool, job in release.jobs().items()} == before
    refused = release.annotator("resume", NAME, "-n", release.namespace, check=False)
    assert (refused.returncode, "janitor" in refused.stderr) == (2, True)
    release.upgrade("--set", "run.name=second")
    assert release.run.startswith("second-")
    assert not set(before.values()) & {job.metadata.uid for job in release.jobs().values()}
    assert not release.job("gpu").spec.suspend
    release.wait_for_end()
    release.wait_for(lambda: release.job("gpu").spec.suspend, 120, "the gpu Job suspended again")


def test_the_gpu_pool_alone(cluster: Cluster, release: Release, gpu: Values, quiet: dict[str, bytes]) -> None:
    release.install(merged(base_values(cluster, release.location), gpu, only("gpu")))
    release.wait_for_end()
    check_complete(release.location, release.run, quiet)
    release.wait_for(lambda: has_condition(release.job("gpu"), "Complete"), 60, "Job complete")
    assert {pod.spec.node_name for pod in release.pods()} <= set(cluster.gpu_nodes())
    assert release.status()["state"] == "complete"


def test_an_image_without_cuda_fails_the_job_at_once(cluster: Cluster, release: Release, gpu: Values) -> None:
    honest = {"pools": {"gpu": {"allowCpu": False}}}
    release.install(merged(base_values(cluster, release.location), gpu, only("gpu"), honest))
    release.wait_for(lambda: has_condition(release.job("gpu"), "Failed"), 60, "Job failed")
    assert set(release.codes()) == {78}
    told = release.status()
    assert told["state"] == "failed"
    assert "PodFailurePolicy" in told["pools"]["gpu"]["reason"]
    assert "--device cuda" in told["failures"][0]["last_words"], json.dumps(told["failures"])


@pytest.mark.skipif("GPU_IMAGE" not in os.environ, reason="GPU_IMAGE names the gpu image, 3 GB: tried by hand")
def test_an_unresponsive_gpu_is_retried(
    cluster: Cluster, release: Release, gpu: Values, quiet: dict[str, bytes]
) -> None:
    honest = {"pools": {"gpu": {"allowCpu": False, "image": {"tag": os.environ["GPU_IMAGE"].rpartition(":")[2]}}}}
    release.install(merged(base_values(cluster, release.location), gpu, slow("500m"), honest))
    release.wait_for(lambda: (release.job("gpu").status.failed or 0) >= 2, 300, "two pods counted")
    assert set(release.codes("gpu")) == {70}
    assert not has_condition(release.job("gpu"), "Failed")
    assert any("exit 70" in one["last_words"] for one in release.status()["failures"])
    release.wait_for_end(400)
    check_complete(release.location, release.run, quiet)
    assert set(shards_by_pool(release.location, release.run)) == {"cpu"}
    release.wait_for(lambda: is_over(release.job("gpu")), 180, "the gpu Job at its end, or suspended")
    assert set(release.codes("gpu")) <= {70, 0}, "the next pods see the end before they touch the device"
    assert release.status()["state"] == "complete"
