"""Two pods of one node and their model: how often each of its files is fetched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from job.model.artifact import MANIFEST_NAME
from tests.chart.rendering import CHART, Values, merged
from tests.cluster.access import Cluster
from tests.cluster.locations import check_complete
from tests.cluster.release import Release, base_values, on_nodes, only
from tests.s3.proxy import Behaviour, FaultProxy, fault_proxy

MODEL = CHART.parents[1] / "job" / "demo_artifact"
CLAIM = "models"


@contextmanager
def claimed(release: Release, folder: Path) -> Iterator[Values]:
    """A claim in the namespace for a folder of the nodes, as the volume of the cache."""
    core, name = release.cluster.core, release.namespace
    folder.mkdir()
    folder.chmod(0o777)  # fsGroup does not apply to a hostPath
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    claim = {"namespace": name, "name": CLAIM}
    volume = {**common, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}, "claimRef": claim}
    core.create_persistent_volume({"metadata": {"name": name}, "spec": volume})
    request = {**common, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}
    core.create_namespaced_persistent_volume_claim(name, {"metadata": {"name": CLAIM}, "spec": request})
    try:
        yield {"cache": {"pvc": {"claimName": CLAIM}}}
    finally:
        core.delete_persistent_volume(name)


def fetched(proxy: FaultProxy, folder: str) -> Counter[str]:
    """Number of GET requests by file of the model, without its manifest, which every pod reads."""
    paths = [Path(urlsplit(seen.path).path) for seen in proxy.log if seen.kind == "GET"]
    return Counter(path.name for path in paths if path.parent.name == folder and path.name != MANIFEST_NAME)


@pytest.mark.slow
@pytest.mark.parametrize(("is_shared", "downloads"), [(True, 1), (False, 2)], ids=["shared-cache", "own-caches"])
def test_two_pods_of_a_node_fetch_the_model(
    kit: Cluster, release: Release, spare: str, quiet: dict[str, bytes], is_shared: bool, downloads: int
) -> None:
    folder = f"model-{release.namespace}"
    location = release.location
    (bucket, _, _) = location.name.partition("/")
    files = {path.name: path.read_bytes() for path in MODEL.iterdir()}
    for name, data in files.items():
        kit.server.files().pipe_file(f"{bucket}/{folder}/{name}", data)

    with fault_proxy(kit.server, host=str(urlsplit(kit.server.endpoint_url).hostname)) as proxy:
        proxy.behaviour = Behaviour(latency_s=0.2)
        with claimed(release, release.folder / "cache") as shared:
            release.install(
                merged(
                    base_values(kit, location),
                    only("cpu"),
                    on_nodes(spare),
                    {"s3": {"endpoint": proxy.server.endpoint_url}},
                    {"pools": {"cpu": {"model": {"uri": f"s3://{bucket}/{folder}"}}}},
                    shared if is_shared else {},
                )
            )
            release.wait_for_end()
            pods = release.pods("cpu")
    assert {pod.spec.node_name for pod in pods} == {spare}
    assert len(pods) == 2
    assert fetched(proxy, folder) == dict.fromkeys(files.keys() - {MANIFEST_NAME}, downloads)
    check_complete(location, release.run, quiet)
