"""The names of s3fs and fsspec that are not part of their documented interfaces, as this project uses them."""

from __future__ import annotations

import inspect
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

import fsspec
import pytest
from s3fs import S3FileSystem

from job.storage.retry import TransientError
from job.storage.s3 import S3Driver

ADVICE = (
    "\nThis release changes what job/storage/s3.py calls. Adapt the driver and this test, or lower the upper bounds "
    "of s3fs and fsspec in pyproject.toml."
)


def problems_of(file_system: type[S3FileSystem]) -> list[str]:
    """What the S3 driver calls and does not find as it expects."""
    problems = []
    for name, arguments in (("_call_s3", ("put_object",)), ("_put_file", ("local", "bucket/key")), ("set_session", ())):
        method = getattr(file_system, name, None)
        if not inspect.iscoroutinefunction(method):
            problems.append(f"{name} is not a coroutine function")
            continue
        keywords = {"Bucket": "b", "Body": b""} if name == "_call_s3" else {}
        try:
            inspect.signature(method).bind(None, *arguments, **keywords)
        except TypeError as exc:
            problems.append(f"{name}: {exc}")
    if not isinstance(getattr(file_system, "retries", None), int):
        problems.append("retries is not an attribute that counts tries")
    if not isinstance(getattr(file_system, "loop", None), property):
        problems.append("loop is not a property")
    return problems


def requests_of_one_call() -> int:
    """Requests that the driver sends for one call, if the server is overloaded."""
    seen = []

    class Overloaded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            body = b"<Error><Code>SlowDown</Code><Message>injected</Message></Error>"
            self.send_response(503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Overloaded) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "region_name": "us-east-1"}
        try:
            with pytest.raises(TransientError):
                S3Driver("s3://bucket/folder", {"key": "k", "secret": "s", "client_kwargs": client}).fetch("key")
        finally:
            server.shutdown()
            thread.join()
    return len(seen)


def test_this_release_of_s3fs_has_the_private_names_that_the_driver_calls() -> None:
    found = f"s3fs {version('s3fs')}, fsspec {fsspec.__version__}: "
    problems = problems_of(S3FileSystem)
    assert not problems, found + "; ".join(problems) + ADVICE
    requests = requests_of_one_call()
    assert requests == 1, f"{found}one call sends {requests} requests: s3fs or botocore retries by itself{ADVICE}"


def test_a_release_that_changes_them_is_found() -> None:
    class Changed(S3FileSystem):  # type: ignore[misc]
        retries = None
        loop = None

        async def _call_s3(self, method: str) -> None: ...

        def _put_file(self, lpath: str, rpath: str) -> None: ...

    assert problems_of(Changed) == [
        "_call_s3: got an unexpected keyword argument 'Bucket'",
        "_put_file is not a coroutine function",
        "retries is not an attribute that counts tries",
        "loop is not a property",
    ]
