"""Access to the storage of a release from outside the cluster."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from job.errors import StorageError, UsageError
from job.model.artifact import MANIFEST_NAME
from k8s import storage_access
from k8s.api_objects import Job
from k8s.cluster import Cluster
from k8s.observe import observe
from k8s.release import Release
from k8s.storage_access import call_with_timeout, storage_options
from k8s.submission import StorageOptions, find_work
from tests.fakes import DEMO_ARTIFACT
from tests.k8s.api import Api
from tests.k8s.objects import job, release
from tests.s3.servers import make_bucket, moto_server

S3_URL = "s3://pictures/out"
WORKERS = {"AWS_ENDPOINT_URL_S3": "http://workers", "AWS_DEFAULT_REGION": "eu-1"}
OPTIONS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, Any], dict[str, Any]]] = {
    "endpoint and region of the workers": (
        WORKERS, {}, {}, {"endpoint_url": "http://workers", "client_kwargs": {"region_name": "eu-1"}},
    ),
    "the S3 endpoint before the general one": (
        {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}, {}, {}, {"endpoint_url": "http://s3"},
    ),
    "the general endpoint": ({"AWS_ENDPOINT_URL": "http://all"}, {}, {}, {"endpoint_url": "http://all"}),
    "no endpoint": ({"AWS_REGION": "eu-1"}, {}, {}, {"client_kwargs": {"region_name": "eu-1"}}),
    "a general endpoint of this machine": (WORKERS, {"AWS_ENDPOINT_URL": "http://here"}, {}, {}),
    "an S3 endpoint of this machine": (WORKERS, {"AWS_ENDPOINT_URL_S3": "http://here"}, {}, {}),
    "a region of this machine": (WORKERS, {"AWS_DEFAULT_REGION": "us-1"}, {}, {"endpoint_url": "http://workers"}),
    "an endpoint in the given options": (
        WORKERS, {}, {"endpoint_url": "http://given", "key": "a"}, {"endpoint_url": "http://given", "key": "a"},
    ),
    "an endpoint of the client in the given options": (
        WORKERS, {}, {"client_kwargs": {"endpoint_url": "http://given"}},
        {"client_kwargs": {"endpoint_url": "http://given"}},
    ),
    "credentials and a region in the given options": (
        WORKERS, {}, {"key": "a", "client_kwargs": {"region_name": "us-1", "verify": False}},
        {"key": "a", "endpoint_url": "http://workers", "client_kwargs": {"region_name": "us-1", "verify": False}},
    ),
}  # fmt: skip


def with_environment(pool_job: Job, environment: dict[str, str]) -> Job:
    """A Job whose workers have these variables."""
    raw: dict[str, Any] = msgspec.to_builtins(pool_job)
    variables = [{"name": name, "value": value} for name, value in environment.items()]
    raw["spec"]["template"]["spec"]["containers"][0]["env"] = variables
    return msgspec.convert(raw, type=Job)


def with_workers(environment: dict[str, str], args: list[str] | None = None) -> Release:
    """A release whose workers have these variables."""
    return release(cpu=with_environment(job("cpu", **({"args": args} if args else {})), environment))


@pytest.fixture(autouse=True)
def no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)


_writes: list[str] = []
_is_recording = False


def _record(event: str, args: tuple[Any, ...]) -> None:
    if _is_recording and event in {"os.putenv", "os.unsetenv"}:
        _writes.append(f"{event} {args[0]!r}")


sys.addaudithook(_record)


@pytest.fixture
def environment_writes() -> Iterator[list[str]]:
    """Changes of this process's environment, by any thread and by any library."""
    global _is_recording
    _writes.clear()
    _is_recording = True
    try:
        yield _writes
    finally:
        _is_recording = False


def test_writes_of_the_environment_are_recorded(environment_writes: list[str]) -> None:
    os.environ["SAM3_TEST"] = "1"
    del os.environ["SAM3_TEST"]
    assert environment_writes[-2:] == ["os.putenv b'SAM3_TEST'", "os.unsetenv b'SAM3_TEST'"]


@pytest.mark.parametrize(("workers", "here", "given", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_storage_options(
    monkeypatch: pytest.MonkeyPatch,
    workers: dict[str, str],
    here: dict[str, str],
    given: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    before = msgspec.json.encode(given)
    assert storage_options(with_workers(workers), S3_URL, given) == expected
    assert msgspec.json.encode(given) == before


@pytest.mark.parametrize("url", ["gs://pictures/out", "https://pictures/out", "/volumes/results", "file:///out"])
def test_only_s3_urls_get_options_of_the_workers(url: str) -> None:
    assert storage_options(with_workers(WORKERS), url, {"a": 1}) == {"a": 1}


def test_status_leaves_the_environment_alone(
    api: Api, monkeypatch: pytest.MonkeyPatch, environment_writes: list[str]
) -> None:
    monkeypatch.setattr(storage_access, "STORAGE_TIMEOUT_S", 1.0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {**WORKERS, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        args = ["annotate", f"--out_top_dir={S3_URL}", "--run=night-1a2b3c4d"]
        api.jobs = [with_environment(job("gpu", args=args), environment)]
        environment_writes.clear()
        assert observe(Cluster(), "night", {}).warnings == (
            f"the output {S3_URL} cannot be read from here: no answer for 1 s",
        )
    assert environment_writes == []


def test_submit_reaches_input_output_and_model_where_the_workers_do(
    monkeypatch: pytest.MonkeyPatch, environment_writes: list[str]
) -> None:
    with moto_server() as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        make_bucket(server, "pictures")
        files = server.files()
        files.pipe_file(f"pictures/models/one/{MANIFEST_NAME}", (DEMO_ARTIFACT / MANIFEST_NAME).read_bytes())
        for name in ("cam/1.json", "cam/1.jpg", "cam/2.json", "cam/2.jpg"):
            files.pipe_file(f"pictures/in/{name}", b"{}")
        args = [
            "annotate", "--input_top_dir=s3://pictures/in", "--out_top_dir=s3://pictures/out", "--run=night-1a2b3c4d",
            "--model=s3://pictures/models/one",
        ]  # fmt: skip
        submitted = with_workers({"AWS_ENDPOINT_URL_S3": server.endpoint_url}, args)
        environment_writes.clear()
        assert find_work(submitted, StorageOptions()).images == 2
    assert environment_writes == []


def test_a_call_without_a_result_in_time_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_access, "STORAGE_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(StorageError, match="no answer for 0 s"):
        call_with_timeout(silent.accept)


def test_errors_of_a_call_come_through() -> None:
    def refuse() -> None:
        raise UsageError("no such bucket")

    with pytest.raises(UsageError, match="no such bucket"):
        call_with_timeout(refuse)
    assert call_with_timeout(lambda: 7) == 7
