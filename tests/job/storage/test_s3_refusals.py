"""What the S3 driver says about a write that the server refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from job.storage.retry import RefusedError
from job.storage.s3 import S3Driver


class Refusing(BaseHTTPRequestHandler):
    """Refuses each write."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>AccessDenied</Code><Message>no kms:GenerateDataKey</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    """Does not wait for connections that the client keeps open."""

    daemon_threads = True


@pytest.fixture
def driver() -> Iterator[S3Driver]:
    with Server(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        options = {"key": "a", "secret": "b", "client_kwargs": {"region_name": "us-east-1"}}
        try:
            yield S3Driver("s3://b/x", {**options, "endpoint_url": f"http://127.0.0.1:{server.server_port}"})
        finally:
            server.shutdown()
            thread.join()


def put_file(driver: S3Driver, folder: Path) -> None:
    path = folder / "a.npz"
    path.write_bytes(b"data")
    driver.put_file("a.npz", path)


@pytest.mark.parametrize(
    "write",
    [lambda driver, _: driver.put("a.npz", b"data"), lambda driver, _: driver.create("a.npz", b"data"), put_file],
    ids=["put", "create", "put_file"],
)
def test_the_message_of_a_refused_write_leaves_the_name_to_the_retry(
    write: Callable[[S3Driver, Path], object], driver: S3Driver, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError) as refused:
        write(driver, tmp_path)
    assert str(refused.value) == "AccessDenied: no kms:GenerateDataKey"
