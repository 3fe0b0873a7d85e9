"""Fixtures: a cluster, inputs in its storage, and a namespace for each test."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chart.rendering import Values
from tests.cluster.access import SHARED_GPU, SPARE, Cluster, open_cluster
from tests.cluster.locations import Location
from tests.cluster.release import ON_ACCELERATOR, SECRET, Release
from tests.cluster.sharing import held, made_once, shared_folder
from tests.processes import quiet_results, results
from tests.s3.data import make_inputs, upload

COUNT = 160
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests. Their limit of time is that of the test alone: fixtures wait for locks that other tests hold."""
    here, usual_s = Path(__file__).parent, float(config.getini("timeout"))
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            own = item.get_closest_marker("timeout")
            item.add_marker(pytest.mark.timeout(own.args[0] if own else usual_s, func_only=True), append=False)


@pytest.fixture(autouse=True)
def _others(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests of several processes run beside each other, but not beside one that asks for `alone`.

    A test that waits to be alone holds the queue: those that come later wait behind it.
    """
    is_alone, folder = "alone" in request.fixturenames, shared_folder(tmp_path_factory)
    with ExitStack() as stack:
        with held(folder / "queue.lock"):
            stack.enter_context(held(folder / "cluster.lock", is_shared=not is_alone))
        yield


@pytest.fixture
def alone() -> None:
    """No other test runs meanwhile."""


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    if "IMAGE" not in os.environ:
        pytest.skip("no cluster is configured: run `make test-cluster`")
    found = open_cluster()
    if found.kit:
        for node in found.gpu_nodes():
            found.core.patch_node_status(node, {"status": {"capacity": {SHARED_GPU: "100"}}})
    return found


@pytest.fixture(scope="session")
def kit(cluster: Cluster) -> Cluster:
    """The cluster, if the kit can break its nodes."""
    if not cluster.kit:
        pytest.skip("breaks nodes: needs a cluster with CLUSTER_KIT")
    return cluster


@pytest.fixture
def spare(kit: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A CPU node for this test alone, which may break it; its taint keeps the pods of other tests away."""
    with held(shared_folder(tmp_path_factory) / "spare.lock"):
        node = os.environ["SPARE_NODE"]
        assert SPARE["key"] in {taint.key for taint in kit.nodes()[node].spec.taints or []}
        yield node


@pytest.fixture
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Values]:
    """Values for pods that ask for an accelerator; the nodes have one, which no other test asks for meanwhile."""
    with held(shared_folder(tmp_path_factory) / "gpu.lock"):
        yield ON_ACCELERATOR


@pytest.fixture(scope="session")
def inputs(scenes: Path) -> dict[str, bytes]:
    return make_inputs(scenes, COUNT)


@pytest.fixture(scope="session")
def quiet(inputs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Outputs of an undisturbed run on this machine with as many threads."""
    folder = shared_folder(tmp_path_factory) / "quiet"
    return results(made_once(folder, lambda made: quiet_results(inputs, made)) / "out")


@pytest.fixture(scope="session")
def base(cluster: Cluster, inputs: dict[str, bytes]) -> Iterator[Location]:
    """A folder of the bucket with the inputs; removed at the end."""
    with uploaded(cluster, inputs) as location:
        yield location


@contextmanager
def uploaded(cluster: Cluster, inputs: dict[str, bytes]) -> Iterator[Location]:
    """A folder of the bucket with these inputs; removed at the end."""
    name = f"{cluster.bucket}/test-{secrets.token_hex(4)}"
    location = Location(cluster.server, name, "in", "out")
    upload(location, inputs)
    yield location
    cluster.server.files().rm(name, recursive=True)


@pytest.fixture
def release(request: pytest.FixtureRequest, cluster: Cluster, base: Location, tmp_path: Path) -> Iterator[Release]:
    """A namespace and an empty output for this test."""
    with new_release(cluster, base, tmp_path, name_of(request)) as made:
        yield made


@pytest.fixture
def long_release(
    request: pytest.FixtureRequest, cluster: Cluster, scenes: Path, tmp_path: Path
) -> Iterator[tuple[Release, dict[str, bytes]]]:
    """A release with three times the inputs, and the outputs of an undisturbed run."""
    inputs = make_inputs(scenes, 3 * COUNT)
    with uploaded(cluster, inputs) as location, new_release(cluster, location, tmp_path, name_of(request)) as made:
        yield made, quiet_results(inputs, tmp_path / "quiet")


def name_of(request: pytest.FixtureRequest) -> str:
    """Name of a test, as the beginning of that of a namespace."""
    name = re.sub(r"\W+", "-", request.node.name.lower().replace("_", "-")).strip("-").removeprefix("test-")
    return name[:40].strip("-")


@contextmanager
def new_release(cluster: Cluster, base: Location, folder: Path, name: str) -> Iterator[Release]:
    """A namespace of its own, with PodSecurity and the Secret of the storage, and an empty output."""
    namespace = f"{name}-{secrets.token_hex(2)}"
    metadata = {"name": namespace, "labels": RESTRICTED}
    cluster.core.create_namespace({"metadata": metadata})
    keys = {"AWS_ACCESS_KEY_ID": cluster.server.access_key, "AWS_SECRET_ACCESS_KEY": cluster.server.secret_key}
    cluster.core.create_namespaced_secret(namespace, {"metadata": {"name": SECRET}, "stringData": keys})
    try:
        yield Release(cluster, namespace, replace(base, target=f"out-{namespace}"), folder)
    finally:
        remove(cluster, namespace)


def remove(cluster: Cluster, namespace: str) -> None:
    """Kill the pods of the namespace, so that they take no CPU from later tests, and let the cluster delete it."""
    cluster.batch.delete_collection_namespaced_job(namespace, propagation_policy="Background")
    cluster.core.delete_collection_namespaced_pod(namespace, grace_period_seconds=0)
    cluster.core.delete_namespace(namespace)
