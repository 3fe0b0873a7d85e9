"""Real S3 servers on the loopback: moto's server from PyPI, and MinIO if there is a binary."""

from __future__ import annotations

import lzma
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3fs import S3FileSystem

ROOT = Path(__file__).parent.parent.parent
PACKED_MINIO = ROOT.parent / "shared" / "cluster" / "bin" / "minio.xz"
_START_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """Endpoint and credentials of a server."""

    endpoint_url: str
    access_key: str = "tester-key"
    secret_key: str = "tester-secret"
    region: str = "us-east-1"

    def options(self, **config: Any) -> dict[str, Any]:
        """Storage options for s3fs; `config` is for botocore."""
        return {
            "key": self.access_key,
            "secret": self.secret_key,
            "client_kwargs": {"endpoint_url": self.endpoint_url, "region_name": self.region},
            "config_kwargs": config,
        }

    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }

    def files(self) -> S3FileSystem:
        """Direct access for tests, without the code under test."""
        return S3FileSystem(**self.options(), use_listings_cache=False, skip_instance_cache=True)


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """moto's server in a process."""
    port = _free_port()
    with _process([sys.executable, "-m", "tests.s3.moto_with_lock", "-H", "127.0.0.1", "-p", str(port)], {}):
        _wait_for_port(port)
        yield S3Server(f"http://127.0.0.1:{port}")


@contextmanager
def minio_server(binary: Path) -> Iterator[S3Server]:
    """MinIO in a process, with a temporary data folder."""
    port = _free_port()
    server = S3Server(f"http://127.0.0.1:{port}")
    folder = tempfile.mkdtemp(prefix="minio-")
    environment = {"MINIO_ROOT_USER": server.access_key, "MINIO_ROOT_PASSWORD": server.secret_key, "HOME": folder}
    try:
        with _process([str(binary), "server", f"{folder}/data", "--address", f"127.0.0.1:{port}"], environment):
            _wait_for_port(port)
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_minio() -> Path | None:
    """`MINIO_BINARY`, a `minio` on the PATH, or the unpacked binary of the test cluster."""
    named = os.environ.get("MINIO_BINARY") or shutil.which("minio")
    if named:
        return Path(named)
    if not PACKED_MINIO.is_file():
        return None
    unpacked = ROOT / "build" / "minio"
    if not unpacked.is_file():
        unpacked.parent.mkdir(exist_ok=True)
        partial = unpacked.with_suffix(f".{os.getpid()}")
        with lzma.open(PACKED_MINIO) as packed, partial.open("wb") as stream:
            shutil.copyfileobj(packed, stream)
        partial.chmod(0o755)
        partial.replace(unpacked)
    return unpacked


def make_bucket(server: S3Server, name: str) -> None:
    """Create a bucket."""
    server.files().call_s3("create_bucket", Bucket=name)


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except urllib.error.HTTPError as exc:
            exc.close()
            return
        except (TimeoutError, OSError):
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"no server responds on port {port} after {_START_S:.0f} s")
