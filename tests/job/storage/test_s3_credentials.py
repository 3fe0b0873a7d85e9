"""Credentials of S3 that are replaced while the process runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from job.errors import CredentialsRefusedError
from job.storage.object_store import ObjectStore
from job.storage.open import Address
from job.storage.retry import Retry
from job.storage.s3 import S3Driver
from job.storage.s3_credentials import FOLDER_VARIABLE, with_credentials
from tests.fakes import JumpingClock


class Server(ThreadingHTTPServer):
    """Accepts one access key and refuses all others; replaces the files after some refusals."""

    daemon_threads = True
    valid_key = "new"
    refused = 0


class Handler(BaseHTTPRequestHandler):
    """Answers reads."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        is_valid = f"Credential={self.server.valid_key}/" in self.headers["Authorization"]
        self.server.refused += not is_valid
        body = b"data" if is_valid else b"<Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message></Error>"
        self.send_response(200 if is_valid else 403)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def endpoint(server: Server) -> dict[str, object]:
    return {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "client_kwargs": {"region_name": "us-east-1"}}


def write_keys(folder: Path, key: str) -> None:
    (folder / "AWS_ACCESS_KEY_ID").write_text(f"{key}\n")
    (folder / "AWS_SECRET_ACCESS_KEY").write_text("secret")


def test_replaced_files_of_a_secret_are_taken_by_a_running_process(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    write_keys(tmp_path, "old")
    clock = JumpingClock()
    store = ObjectStore(S3Driver("s3://b/x", endpoint(server)), "me", Retry(clock=clock))
    with pytest.raises(CredentialsRefusedError):
        store.read("k")

    write_keys(tmp_path, "new")

    assert store.read("k") == b"data"


def test_replaced_storage_options_are_taken_by_a_running_process(server: Server, tmp_path: Path) -> None:
    options = tmp_path / "storage_options.json"
    options.write_text(json.dumps({**endpoint(server), "key": "old", "secret": "s"}))
    driver = Address.with_file("s3://b/x", str(options)).open("me")
    options.write_text("{ half written")

    timer = threading.Timer(1.0, options.write_text, [json.dumps({**endpoint(server), "key": "new", "secret": "s"})])
    timer.start()
    try:
        assert driver.read("k") == b"data"
    finally:
        timer.join()
    assert server.refused > 1


def test_keys_that_stay_the_same_open_no_other_client(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    write_keys(tmp_path, "old")
    driver = S3Driver("s3://b/x", endpoint(server))
    client = driver._fs
    with pytest.raises(CredentialsRefusedError):
        ObjectStore(driver, "me", Retry(clock=JumpingClock())).read("k")

    assert driver._fs is client


@pytest.mark.parametrize("own", [{"key": "k", "secret": "s"}, {"anon": True}, {"profile": "p"}])
def test_options_with_an_account_keep_it(
    own: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    write_keys(tmp_path, "mounted")

    assert with_credentials(own) == own


def test_a_folder_without_both_keys_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("alone")

    assert with_credentials({"a": 1}) == {"a": 1}
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("s")
    (tmp_path / "AWS_SESSION_TOKEN").write_text("t")
    assert with_credentials({}) == {"key": "alone", "secret": "s", "token": "t"}
