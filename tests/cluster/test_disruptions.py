"""Pods deleted, evicted or OOM-killed, nodes lost or partitioned: the run completes with identical outputs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from job.run.journal import read_history
from job.worker.shards import marked_shards
from tests.chart.rendering import merged
from tests.cluster.access import OUT_OF_SERVICE, Cluster, Pod, has_condition, report
from tests.cluster.locations import check_complete
from tests.cluster.release import TWO, Release, base_values, on_nodes, only, slow
from tests.s3.data import store_of, the_run

INDEX = "batch.kubernetes.io/job-completion-index"
EAT_MEMORY = "open('/proc/1/oom_score_adj', 'w').write('1000'); held = [bytearray(1 << 20) for _ in range(1 << 12)]"


def index_of(pod: Pod) -> int:
    return int(pod.metadata.annotations[INDEX])


def failures(release: Release, pool: str) -> int:
    """Pods that the Job counts as failed."""
    return int(release.job(pool).status.failed or 0)


def workers(release: Release, pool: str, count: int) -> list[Pod]:
    """So many pods that work on images."""

    def found() -> list[Pod]:
        at_work = [pod for pod in release.working(pool) if "SAM3 model loaded" in release.cluster.log(pod)]
        return at_work[:count] if len(at_work) >= count else []

    at_work: list[Pod] = release.wait_for(found, 90, f"{count} {pool} pods at work")
    return at_work


def a_worker(release: Release, pool: str) -> Pod:
    return workers(release, pool, 1)[0]


def evict(release: Release, pod: Pod) -> None:
    body = {"metadata": {"name": pod.metadata.name, "namespace": release.namespace}}
    release.cluster.core.create_namespaced_pod_eviction(pod.metadata.name, release.namespace, body)


def eat_memory(release: Release, pod: Pod) -> None:
    """In the pod, until the kernel kills its first process, marked as the one to go, for the cgroup's limit."""
    command = ["kubectl", "-n", release.namespace, "exec", pod.metadata.name, "--", "python3", "-c", EAT_MEMORY]
    subprocess.run(command, capture_output=True, timeout=60, check=False)


def phase(release: Release, pod: Pod) -> str:
    """Of a pod that may be gone."""
    return next((one.status.phase for one in release.pods() if one.metadata.uid == pod.metadata.uid), "")


def is_gone(release: Release, pod: Pod) -> bool:
    return pod.metadata.uid not in {one.metadata.uid for one in release.pods()}


def test_pods_evicted_deleted_and_out_of_memory(cluster: Cluster, release: Release, quiet: dict[str, bytes]) -> None:
    release.install(merged(base_values(cluster, release.location), slow("250m"), {"pools": {"cpu": TWO}}))
    release.wait_for_images(5)
    of_gpu, (deleted, starved) = a_worker(release, "gpu"), workers(release, "cpu", 2)

    evict(release, of_gpu)
    cluster.core.delete_namespaced_pod(deleted.metadata.name, release.namespace)
    eat_memory(release, starved)
    release.wait_for(lambda: phase(release, of_gpu) in {"Failed", ""}, 60, "eviction")
    release.wait_for(lambda: phase(release, starved) == "Failed", 60, "OOM kill")
    (killed,) = [pod for pod in release.pods("cpu") if pod.metadata.uid == starved.metadata.uid]
    end = killed.status.container_statuses[0].state.terminated
    assert (end.exit_code, end.reason) == (137, "OOMKilled")
    assert release.location.end(release.run) is None

    release.wait_for_end()
    check_complete(release.location, release.run, quiet)
    release.wait_for(lambda: all(has_condition(job, "Complete") for job in release.jobs().values()), 90, "Jobs end")
    assert failures(release, "gpu") == 0, "an eviction costs no retry"
    assert failures(release, "cpu") == 2
    assert all(not job.status.failed_indexes for job in release.jobs().values())


@pytest.mark.slow
def test_power_cut_of_a_node(kit: Cluster, release: Release, spare: str, quiet: dict[str, bytes]) -> None:
    release.install(merged(base_values(kit, release.location), slow("250m"), only("cpu"), on_nodes(spare)))
    release.wait_for_images(20)
    lost = release.working("cpu")
    with restored(kit, spare):
        kit.run_kit("kill-node", spare)
        release.wait_for(lambda: all_deleted(release, lost), 90, "the node's pods given up")
        assert len(release.pods()) == len(lost), "no replacement until the node is declared out of service"
        release.wait_for(lambda: is_warned(release, f"node {spare} is not responding"), 90, "status names the node")
        kit.taint(spare, OUT_OF_SERVICE)
        release.wait_for(lambda: all(is_gone(release, pod) for pod in lost), 60, "the node's pods gone")
        kit.run_kit("start-node", spare)
    release.wait_for_end()
    check_complete(release.location, release.run, quiet)
    assert failures(release, "cpu") == 0, "a lost node costs no retry"
    assert killed_process_ids(release) >= 1, "they had no time to leave in order"


def test_a_partitioned_node_whose_pods_continue(
    kit: Cluster, long_release: tuple[Release, dict[str, bytes]], spare: str
) -> None:
    """The run takes two minutes on a fast machine, so that it is not over when the pods are replaced."""
    (other,), (release, quiet) = kit.gpu_nodes(), long_release
    release.install(merged(base_values(kit, release.location), slow("100m"), only("cpu"), on_nodes(spare, other)))
    release.wait_for_images(10)
    node = spare
    zombies = [pod for pod in release.working("cpu") if pod.spec.node_name == node]
    assert zombies
    with restored(kit, node):
        kit.run_kit("cut-node", node)
        try:
            release.wait_for(lambda: is_warned(release, f"node {node} does not report"), 60, "status names the node")
            release.wait_for(lambda: all_deleted(release, zombies), 90, "the node's pods given up")
            kit.taint(node, OUT_OF_SERVICE)
            indexes = {index_of(pod) for pod in zombies}
            successors = release.wait_for(
                lambda: [pod for pod in release.working("cpu") if index_of(pod) in indexes], 90, "replacements"
            )
            assert {pod.spec.node_name for pod in successors} == {other}
            since_s = max(pod.status.start_time.timestamp() for pod in successors)
            release.wait_for_end(480)
            parts = parts_of_zombies(release, indexes, since_s)
            report(f"{parts} journal parts by zombies after their replacement", release.namespace)
            assert parts >= 1
            check_complete(release.location, release.run, quiet)
        finally:
            kit.run_kit("heal-node", node)
    assert failures(release, "cpu") == 0
    release.wait_for(lambda: has_condition(release.job("cpu"), "Complete"), 60, "Job complete")


@contextmanager
def restored(kit: Cluster, node: str) -> Iterator[None]:
    """Whatever becomes of the test, the node is as it was."""
    try:
        yield
    finally:
        kit.run_kit("start-node", node)
        kit.taint(node)
        kit.wait_for(lambda: kit.is_ready(node), 90, f"{node} ready again")


def is_warned(release: Release, words: str) -> bool:
    return any(words in warning for warning in release.status()["warnings"])


def all_deleted(release: Release, pods: list[Pod]) -> bool:
    current = {pod.metadata.uid: pod for pod in release.pods()}
    left = [current[pod.metadata.uid] for pod in pods if pod.metadata.uid in current]
    return all(pod.metadata.deletion_timestamp for pod in left)


def killed_process_ids(release: Release) -> int:
    made = the_run(release.location, release.run)
    return len(set().union(*(read_history(made, shard).killed_process_ids for shard in marked_shards(made))))


def parts_of_zombies(release: Release, indexes: set[int], since_s: float) -> int:
    """Parts of the journal by the first process of these indexes, after this time."""
    made, store = the_run(release.location, release.run), store_of(release.location, "out")
    first: dict[str, str] = {}
    for item in sorted(store.list(made.key("workers")), key=lambda one: one.modified_s):
        _, index, process_id = item.key.rpartition("/")[2].removesuffix(".json").split("-", 2)
        if int(index) in indexes:
            first.setdefault(index, process_id)
    parts = [item for item in store.list(made.key("journal")) if item.modified_s > since_s]
    return sum(item.key.rpartition("/")[2].rpartition("-")[0] in first.values() for item in parts)
