"""Fixtures: a cluster, inputs in its storage, and a namespace for each test."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.access import Cluster, open_cluster
from tests.cluster.locations import Location
from tests.cluster.release import SECRET, Release
from tests.processes import quiet_results
from tests.s3.data import make_inputs, upload

COUNT = 320
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    if "IMAGE" not in os.environ:
        pytest.skip("no cluster is configured: run `make test-cluster`")
    return open_cluster()


@pytest.fixture(scope="session")
def kit(cluster: Cluster) -> Cluster:
    """The cluster, if the kit can break its nodes."""
    if not cluster.kit:
        pytest.skip("breaks nodes: needs a cluster with CLUSTER_KIT")
    return cluster


@pytest.fixture(scope="session")
def inputs(scenes: Path) -> dict[str, bytes]:
    return make_inputs(scenes, COUNT)


@pytest.fixture(scope="session")
def quiet(inputs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Outputs of an undisturbed run on this machine with as many threads."""
    return quiet_results(inputs, tmp_path_factory.mktemp("quiet"))


@pytest.fixture(scope="session")
def base(cluster: Cluster, inputs: dict[str, bytes]) -> Iterator[Location]:
    """A folder of the bucket with the inputs; removed at the end."""
    name = f"{cluster.bucket}/test-{secrets.token_hex(4)}"
    location = Location(cluster.server, name, "in", "out")
    upload(location, inputs)
    yield location
    cluster.server.files().rm(name, recursive=True)


@pytest.fixture
def release(request: pytest.FixtureRequest, cluster: Cluster, base: Location, tmp_path: Path) -> Iterator[Release]:
    """A namespace and an empty output for this test."""
    name = re.sub(r"\W+", "-", request.node.name.lower().replace("_", "-")).strip("-").removeprefix("test-")
    with new_release(cluster, base, tmp_path, name[:40].strip("-")) as made:
        yield made


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
    """Remove the namespace, so that its pods take no CPU from later tests."""
    cluster.batch.delete_collection_namespaced_job(namespace, propagation_policy="Background")
    cluster.core.delete_collection_namespaced_pod(namespace, grace_period_seconds=0)
    cluster.core.delete_namespace(namespace)
    cluster.wait_for(lambda: not is_there(cluster, namespace), 120, f"namespace {namespace} gone", namespace)


def is_there(cluster: Cluster, namespace: str) -> bool:
    return any(one.metadata.name == namespace for one in cluster.core.list_namespace().items)
