"""Keys of the storage that change while a run works: the Secret follows later, or was there before."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chart.rendering import merged
from tests.cluster.access import Cluster, has_condition
from tests.cluster.locations import Location, check_complete
from tests.cluster.release import SECRET, Release, base_values, only, slow
from tests.processes import wait_until
from tests.s3.data import upload
from tests.s3.servers import S3Server, find_minio, make_bucket

USER = "rotated"
BUCKET = "pictures"
KUBELET_S = 90
"""A kubelet rewrites the files of a changed Secret within about a minute."""


@dataclass
class OwnServer:
    """An S3 server of this test, which pods reach and whose password can be changed."""

    host: str
    port: int
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, password: str) -> S3Server:
        """Start it, after stopping it; only this password is accepted from now on."""
        self.stop()
        binary = find_minio()
        assert binary is not None
        keys = {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": password, "MINIO_BROWSER": "off"}
        command = [str(binary), "server", "--quiet", "--address", f"{self.host}:{self.port}", str(self.folder)]
        self.processes.append(
            subprocess.Popen(command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        server = S3Server(f"http://{self.host}:{self.port}", USER, password)
        wait_until(lambda: is_up(server))
        return server

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()


def is_up(server: S3Server) -> bool:
    try:
        server.files().call_s3("list_buckets")
    except OSError:
        return False
    return True


@contextmanager
def own_server(kit: Cluster, folder: Path) -> Iterator[OwnServer]:
    folder.mkdir()
    host = str(urlsplit(kit.server.endpoint_url).hostname)
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    server = OwnServer(host, port, folder)
    try:
        yield server
    finally:
        server.stop()


def set_secret(release: Release, password: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": password}
    body = {"metadata": {"name": SECRET}, "stringData": keys}
    release.cluster.core.replace_namespaced_secret(SECRET, release.namespace, body)


@pytest.mark.slow
def test_keys_that_change_before_and_after_the_secret(
    kit: Cluster, release: Release, inputs: dict[str, bytes], quiet: dict[str, bytes], tmp_path: Path
) -> None:
    with own_server(kit, tmp_path / "s3") as own:
        server = own.start("first-password")
        make_bucket(server, BUCKET)
        location = Location(server, f"{BUCKET}/test", "in", "out")
        upload(location, inputs)
        release = replace(release, location=location)
        set_secret(release, "first-password")
        endpoint = {"s3": {"endpoint": server.endpoint_url}}
        release.install(merged(base_values(kit, location), slow("100m"), only("cpu"), endpoint))
        release.wait_for_images(5)

        release = with_keys(release, own.start("second-password"))  # the Secret follows
        made = release.location.annotated()
        time.sleep(20)
        assert release.location.annotated() <= made + 2, "the old keys are refused"
        set_secret(release, "second-password")
        release.wait_for(lambda: release.location.annotated() > made + 5, 300, "it goes on with the second keys")

        set_secret(release, "third-password")  # before the server knows them
        time.sleep(KUBELET_S)
        assert release.location.end(release.run) is None, "the run has ended before its keys changed"
        release = with_keys(release, own.start("third-password"))
        release.wait_for_end(400)

        check_complete(release.location, release.run, quiet)
        assert not any(has_condition(job, "Failed") for job in release.all_jobs())
        assert set(release.codes()) <= {0, 75}


def with_keys(release: Release, server: S3Server) -> Release:
    return replace(release, location=replace(release.location, server=server))
