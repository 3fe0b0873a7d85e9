"""`helm upgrade` and `helm rollback` during a run: which values patch, replace or start a new run."""

from __future__ import annotations

import pytest

from tests.chart.rendering import merged
from tests.cluster.access import Cluster, Pod, has_condition
from tests.cluster.locations import Location, check_complete, check_outputs
from tests.cluster.release import NAME, Release, base_values, slow
from tests.processes import quiet_results

ORIGINAL_LABELS = {"controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"}
ENDED = {"Succeeded", "Failed"}
BYTE_CHANGING = ("--set", "annotation.confidenceThreshold=0.6", "--set", "selection.override=true")


@pytest.fixture(scope="module")
def stricter(base: Location, inputs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Outputs of a quiet run with a higher threshold."""
    return quiet_results(inputs, tmp_path_factory.mktemp("stricter"), "--confidence_threshold", "0.6")


def names(release: Release) -> dict[str, str]:
    return {pool: job.metadata.name for pool, job in release.jobs().items()}


def test_changes_that_keep_the_run(cluster: Cluster, release: Release, quiet: dict[str, bytes]) -> None:
    release.install(merged(base_values(cluster, release.location), slow("150m")))
    release.wait_for_images(5)
    run, first = release.run, names(release)

    release.upgrade()
    assert names(release) == first, "no change, no new Job"

    tool = ("-n", release.namespace)
    release.annotator("scale", NAME, *tool, "--pool", "cpu", "--parallelism", "2")
    assert (names(release), release.job("cpu").spec.parallelism) == (first, 2)
    release.wait_for(lambda: len(release.working("cpu")) == 2, 60, "two cpu pods")

    release.annotator("suspend", NAME, *tool)
    release.wait_for(lambda: all(pod.status.phase in ENDED for pod in release.pods()), 60, "no pods at work")
    assert release.status()["state"] == "suspended"
    assert release.location.end(run) is None
    release.annotator("resume", NAME, *tool)
    assert names(release) == first

    revision = release.revision()
    release.upgrade(*(f"--set=pools.cpu.resources.{kind}.memory=1100Mi" for kind in ("requests", "limits")))
    other_size = names(release)
    assert (other_size["gpu"], other_size["cpu"] != first["cpu"]) == (first["gpu"], True)
    release.upgrade("--set", f"pools.gpu.image.tag={cluster.other_image.rpartition(':')[2]}")
    other_image = names(release)
    assert (other_image["cpu"], other_image["gpu"] != first["gpu"]) == (other_size["cpu"], True)
    release.wait_for(lambda: release.working("gpu") and release.working("cpu"), 60, "pods of the new Jobs")

    release.helm("rollback", NAME, revision)
    assert names(release) == first
    assert release.run == run
    release.wait_for_end()
    check_complete(release.location, run, quiet)


@pytest.mark.slow
def test_a_change_of_outputs_is_a_new_run_and_rollback_is_refused(
    cluster: Cluster, release: Release, stricter: dict[str, bytes]
) -> None:
    release.install(merged(base_values(cluster, release.location), slow("250m")))
    release.wait_for_images(5)
    first = release.run
    old = live_on(release, release.working("cpu")[0])
    release.wait_for(lambda: "SAM3 model loaded" in cluster.log(old), 60, "an old pod of its own at work")

    release.upgrade(*BYTE_CHANGING)
    second = release.run
    assert second != first
    release.wait_for(lambda: release.location.end(first), 120, "the first run superseded")
    release.wait_for_end()
    end = release.location.end(first)
    assert end is not None
    assert (end.outcome, end.superseded_by) == ("superseded", second)
    check_complete(release.location, second, stricter)
    release.wait_for(lambda: ended_with(release, old) == 78, 60, "the old pod has seen it")
    check_complete(release.location, second, stricter)

    release.helm("rollback", NAME, "1")
    assert release.run == first
    release.wait_for(lambda: all(has_condition(job, "Failed") for job in release.jobs().values()), 120, "a refusal")
    told = release.status()
    assert "run.name" in told["failures"][0]["last_words"] or "--run" in told["failures"][0]["last_words"]
    check_outputs(release.location, stricter)

    release.upgrade("--set", "run.name=again")
    assert release.run.startswith("again-")
    release.wait_for_end()
    assert release.status()["state"] == "complete"
    check_outputs(release.location, stricter)


def live_on(release: Release, pod: Pod) -> Pod:
    """The same pod once more, of which no Job knows."""
    core = release.cluster.core
    labels = {key: value for key, value in pod.metadata.labels.items() if key not in ORIGINAL_LABELS}
    copy = {
        "metadata": {"name": "old", "labels": labels, "annotations": pod.metadata.annotations},
        "spec": core.api_client.sanitize_for_serialization(pod.spec),
    }
    for decided in ("nodeName", "hostname"):
        copy["spec"].pop(decided, None)
    return core.create_namespaced_pod(release.namespace, copy)


def ended_with(release: Release, pod: Pod) -> int | None:
    found = release.cluster.core.read_namespaced_pod(pod.metadata.name, release.namespace)
    ended = [one.state.terminated for one in found.status.container_statuses or [] if one.state.terminated]
    return ended[0].exit_code if ended else None
