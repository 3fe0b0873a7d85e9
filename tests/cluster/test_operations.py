"""What happens to a cluster around a run: clocks, limits, images, namespaces, other releases, GitOps."""

from __future__ import annotations

import base64
import subprocess
import time
from pathlib import Path

import pytest

from tests.chart.rendering import CHART, merged
from tests.cluster.access import Cluster, exit_code, has_condition
from tests.cluster.conftest import new_release
from tests.cluster.locations import Location, check_complete, check_outputs
from tests.cluster.release import NAME, Release, base_values, on_nodes, only, run, slow

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
OF_RELEASE = f"app.kubernetes.io/instance={NAME}"
FINALIZER = "example.org/keep"


def kinds_left(release: Release) -> list[str]:
    """Objects of the release that are still in its namespace."""
    kinds = "jobs,pods,serviceaccounts,roles,rolebindings,networkpolicies,configmaps"
    return run(["kubectl", "-n", release.namespace, "get", kinds, "-o", "name", "-l", OF_RELEASE]).stdout.split()


def test_uninstalled_in_mid_run_and_installed_again(
    cluster: Cluster, release: Release, quiet: dict[str, bytes]
) -> None:
    values = merged(base_values(cluster, release.location), slow("250m"))
    release.install(values)
    release.wait_for_images(5)
    made = release.run
    release.helm("test", NAME, "--logs")

    release.helm("uninstall", NAME)
    release.wait_for(lambda: not kinds_left(release), 90, "nothing left of the release")

    release.install(merged(base_values(cluster, release.location)))
    assert release.run == made, "the same values continue the same run"
    release.wait_for_end()
    check_complete(release.location, made, quiet)


@pytest.mark.slow
def test_applied_without_helm(cluster: Cluster, release: Release, quiet: dict[str, bytes]) -> None:
    def apply(*more: str) -> None:
        values = release.file(base_values(cluster, release.location))
        command = ["template", NAME, str(CHART), "--values", values, "--skip-tests", *more]
        manifests = release.helm(*command).stdout
        assert manifests == release.helm(*command).stdout, "equal values render equal manifests"
        subprocess.run(
            ["kubectl", "-n", release.namespace, "apply", "--prune", "-l", OF_RELEASE, "-f", "-"],
            input=manifests, text=True, check=True, capture_output=True,
        )  # fmt: skip

    apply("--set", "pools.cpu.resources.limits.cpu=250m", "--set", "pools.gpu.enabled=false")
    first = release.job("cpu").metadata.name
    release.wait_for_images(5)

    apply("--set", "pools.gpu.enabled=false")
    assert [job.metadata.name for job in release.jobs().values()] != [first], "the old Job is pruned"
    release.wait_for_end()
    check_complete(release.location, release.run, quiet)


@pytest.mark.slow
def test_clocks_of_one_pool_are_ten_minutes_ahead(cluster: Cluster, release: Release, quiet: dict[str, bytes]) -> None:
    if not FAKETIME.is_file():
        pytest.skip("needs Debian's libfaketime")
    library = base64.b64encode(FAKETIME.read_bytes()).decode()
    cluster.core.create_namespaced_config_map(
        release.namespace, {"metadata": {"name": "faketime"}, "binaryData": {FAKETIME.name: library}}
    )
    shared = {
        "extraVolumes": [{"name": "faketime", "configMap": {"name": "faketime", "defaultMode": 0o555}}],
        "extraVolumeMounts": [{"name": "faketime", "mountPath": "/faketime"}],
    }
    ahead = [
        {"name": "LD_PRELOAD", "value": f"/faketime/{FAKETIME.name}"},
        {"name": "FAKETIME", "value": "+10m"},
        {"name": "DONT_FAKE_MONOTONIC", "value": "1"},
    ]
    release.install(merged(base_values(cluster, release.location), shared, {"pools": {"cpu": {"env": ahead}}}))
    release.wait_for(lambda: len(release.working("cpu")) >= 1, 90, "cpu pods")
    release.wait_for_end()

    check_complete(release.location, release.run, quiet)
    assert not [code for code in release.codes() if code], "no pod failed"


@pytest.mark.slow
def test_a_limit_range_with_tiny_defaults(cluster: Cluster, release: Release, quiet: dict[str, bytes]) -> None:
    tiny = {"type": "Container", "default": {"cpu": "10m", "memory": "16Mi"}, "defaultRequest": {"memory": "16Mi"}}
    limits = {"metadata": {"name": "tiny"}, "spec": {"limits": [tiny]}}
    cluster.core.create_namespaced_limit_range(release.namespace, limits)
    release.install(base_values(cluster, release.location))

    release.wait_for_end()
    check_complete(release.location, release.run, quiet)


@pytest.mark.slow
def test_an_image_that_cannot_be_pulled_and_is_mended(
    cluster: Cluster, release: Release, quiet: dict[str, bytes]
) -> None:
    wrong = {"pools": {"cpu": {"image": {"tag": "no-such-tag"}}}}
    release.install(merged(base_values(cluster, release.location), only("cpu"), wrong))
    release.wait_for(lambda: "no-such-tag" in " ".join(release.status()["warnings"]), 120, "status names the image")
    made = release.run

    release.upgrade("--set", f"pools.cpu.image.tag={cluster.image.rpartition(':')[2]}")
    release.wait_for_end()
    assert release.run == made
    check_complete(release.location, made, quiet)


@pytest.mark.slow
def test_a_pod_that_stays_terminating_holds_only_its_index(
    cluster: Cluster, release: Release, quiet: dict[str, bytes]
) -> None:
    release.install(merged(base_values(cluster, release.location), slow("250m")))
    release.wait_for_images(5)
    stuck = release.wait_for(lambda: release.working("cpu"), 60, "a cpu pod")[0].metadata.name
    cluster.core.patch_namespaced_pod(stuck, release.namespace, {"metadata": {"finalizers": [FINALIZER]}})
    try:
        cluster.core.delete_namespaced_pod(stuck, release.namespace)
        release.wait_for_end(300)
        check_complete(release.location, release.run, quiet)
        assert stuck in {pod.metadata.name for pod in release.pods("cpu")}
    finally:
        cluster.core.patch_namespaced_pod(stuck, release.namespace, {"metadata": {"finalizers": None}})


@pytest.mark.slow
def test_a_deleted_namespace_leaves_a_run_that_another_continues(
    cluster: Cluster, base: Location, tmp_path: Path, quiet: dict[str, bytes]
) -> None:
    with new_release(cluster, base, tmp_path, "deleted") as first:
        values = merged(base_values(cluster, first.location), slow("250m"))
        first.install(values)
        first.wait_for_images(5)
        made, location = first.run, first.location
    with new_release(cluster, base, tmp_path, "created") as again:
        again.install(base_values(cluster, location))
        assert again.run == made
        again.wait_for(lambda: location.end(made), 240, "end of the run")
        check_complete(location, made, quiet)


@pytest.mark.slow
def test_two_releases_on_one_output(cluster: Cluster, release: Release, quiet: dict[str, bytes]) -> None:
    values = merged(base_values(cluster, release.location), slow("250m"), only("cpu"))
    release.install(values)
    release.wait_for_images(5)
    first = release.run

    release.helm("install", "second", str(CHART), "--values", release.file(values))
    runs = {job.metadata.labels["sam3-annotate/run"] for job in release.all_jobs() if job.metadata.labels}
    (second,) = {name for name in runs if name.startswith("second")}
    release.wait_for(lambda: release.location.end(second), 240, "end of the second run")

    end = release.location.end(first)
    assert end is not None
    assert end.outcome == "superseded"
    check_outputs(release.location, quiet)


@pytest.mark.slow
def test_status_watch_follows_a_run_to_its_end(cluster: Cluster, release: Release, quiet: dict[str, bytes]) -> None:
    release.install(base_values(cluster, release.location))
    watched = release.annotator("status", NAME, "-n", release.namespace, "--watch")

    states = [line for line in watched.stdout.splitlines() if "complete: every input" in line]
    assert states, watched.stdout[-2000:]
    check_complete(release.location, release.run, quiet)


@pytest.mark.slow
def test_a_node_is_drained_while_its_pod_plans(
    kit: Cluster, release: Release, spare: str, quiet: dict[str, bytes]
) -> None:
    (other,) = kit.gpu_nodes()
    release.install(merged(base_values(kit, release.location), slow("50m"), only("cpu"), on_nodes(spare, other)))
    release.wait_for(lambda: release.working("cpu"), 90, "a pod that plans")
    try:
        run(["kubectl", "drain", spare, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"])
        assert release.location.annotated() == 0, "it was still planning, or loading the model"
    finally:
        run(["kubectl", "uncordon", spare])
    release.upgrade("--set", "pools.cpu.resources.limits.cpu=1")
    release.wait_for_end()
    check_complete(release.location, release.run, quiet)


@pytest.mark.slow
def test_keys_that_stay_wrong_beyond_the_first_tries(
    cluster: Cluster, release: Release, quiet: dict[str, bytes]
) -> None:
    """A Secret with wrong keys in mid-run: fresh pods leave with 75, and go on by themselves once it is right."""
    right = {"AWS_ACCESS_KEY_ID": cluster.server.access_key, "AWS_SECRET_ACCESS_KEY": cluster.server.secret_key}
    secret = {"metadata": {"name": "own-keys"}, "stringData": right}
    cluster.core.create_namespaced_secret(release.namespace, secret)
    own = {"s3": {"existingSecret": "own-keys"}}
    release.install(merged(base_values(cluster, release.location), slow("250m"), own))
    release.wait_for_images(5)

    wrong = {**secret, "stringData": {**right, "AWS_SECRET_ACCESS_KEY": "no" * 20}}
    cluster.core.replace_namespaced_secret("own-keys", release.namespace, wrong)
    for pod in release.pods():
        cluster.core.delete_namespaced_pod(pod.metadata.name, release.namespace)
    release.wait_for(lambda: release.codes().count(75) >= 4, 400, "the first tries of both indexes have left")
    time.sleep(30)  # beyond the first tries
    assert not any(has_condition(job, "Failed") for job in release.all_jobs())
    assert 78 not in release.codes()

    cluster.core.replace_namespaced_secret("own-keys", release.namespace, secret)
    release.wait_for_end(400)
    check_complete(release.location, release.run, quiet)
    janitors = [job for job in release.all_jobs() if "janitor" in job.metadata.name]
    assert not any(has_condition(job, "Failed") for job in janitors)
    assert all(exit_code(pod) in {None, 0, 75, 143} for pod in release.pods())
