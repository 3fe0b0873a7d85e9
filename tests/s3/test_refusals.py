"""Servers that do not support a request, requests that no retry can help, and missing credentials."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web

from job.cli.main import run as run_cli
from job.errors import ConfigurationError, CredentialsRefusedError, ObjectRefusedError, StorageError
from job.storage.object_store import ObjectStore
from job.storage.open import open_store
from job.storage.retry import MAX_REJECTED_TRIES, Retry
from job.storage.s3 import S3Driver
from tests.fakes import write_inputs
from tests.s3.fixtures import Bucket
from tests.s3.proxy import Behaviour, FaultProxy, Refusal, fault_proxy
from tests.s3.servers import S3Server

NOT_IMPLEMENTED = Refusal(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
NOT_ALLOWED = Refusal(405, "MethodNotAllowed")
CHECKSUM_HEADERS = ("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer")
REFUSED_CHECKSUMS = [
    Refusal(400, "InvalidArgument", "Unsupported header x-amz-sdk-checksum-algorithm received for this API call."),
    Refusal(400, "XAmzContentSHA256Mismatch", "The provided header does not match what was computed."),
    Refusal(501, "NotImplemented", "STREAMING-UNSIGNED-PAYLOAD-TRAILER not implemented"),
]
REJECTIONS = [
    Refusal(400, "InvalidArgument"),
    Refusal(400, "InvalidRequest"),
    Refusal(403, "QuotaExceeded"),
    Refusal(400, "XMinioAdminBucketQuotaExceeded"),
    Refusal(400, "InvalidStorageClass"),
    Refusal(412, "SomethingNew"),
]

refusals = pytest.mark.parametrize("refusal", [NOT_IMPLEMENTED, NOT_ALLOWED], ids=["501", "405"])


def on(method: str, refusal: Refusal) -> Callable[[web.Request], Refusal | None]:
    return lambda request: refusal if request.method == method else None


def without_if_none_match(refusal: Refusal) -> Callable[[web.Request], Refusal | None]:
    return lambda request: refusal if "If-None-Match" in request.headers else None


def without_list_v2(refusal: Refusal) -> Callable[[web.Request], Refusal | None]:
    return lambda request: refusal if "list-type" in request.query else None


def without_checksums(refusal: Refusal) -> Callable[[web.Request], Refusal | None]:
    def refuse(request: web.Request) -> Refusal | None:
        is_checked = any(name.lower().startswith(CHECKSUM_HEADERS) for name in request.headers)
        return refusal if request.method == "PUT" and is_checked else None

    return refuse


@pytest.fixture
def proxy(fast_bucket: Bucket) -> Iterator[FaultProxy]:
    with fault_proxy(fast_bucket.server) as running:
        yield running


@pytest.fixture
def store(fast_bucket: Bucket, proxy: FaultProxy) -> ObjectStore:
    return ObjectStore(S3Driver(fast_bucket.url("out"), proxy.server.options()), "me", Retry(timeout_s=20))


@pytest.fixture
def s3_environment(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in proxy.server.environment().items():
        monkeypatch.setenv(name, value)


@refusals
def test_a_server_without_if_none_match_is_a_wrong_configuration(
    store: ObjectStore, proxy: FaultProxy, refusal: Refusal
) -> None:
    proxy.behaviour = Behaviour(refuse=without_if_none_match(refusal))
    store.put("a", b"1")
    with pytest.raises(ConfigurationError, match=r"out/b: .*does not support.*use an S3 server.*`If-None-Match: \*`"):
        store.create("b", b"1")
    assert proxy.requests["CREATE"] == 1


@refusals
def test_a_server_without_list_objects_v2_is_a_wrong_configuration(
    store: ObjectStore, proxy: FaultProxy, refusal: Refusal
) -> None:
    proxy.behaviour = Behaviour(refuse=without_list_v2(refusal))
    for request in (store.exists, store.now_s, lambda: list(store.list())):
        with pytest.raises(ConfigurationError, match="does not support this ListObjectsV2 request"):
            request()
    assert proxy.requests["LIST"] == 3


@pytest.mark.parametrize("refusal", REJECTIONS, ids=lambda refusal: refusal.code)
def test_a_rejected_first_write_is_a_wrong_configuration(
    store: ObjectStore, proxy: FaultProxy, refusal: Refusal
) -> None:
    proxy.behaviour = Behaviour(refuse=on("PUT", refusal))
    with pytest.raises(ConfigurationError, match=rf"out/a: {refusal.code}: .*Rejected 4 times: change the storage"):
        store.put("a", b"1")
    assert proxy.requests["PUT"] == MAX_REJECTED_TRIES


def test_a_file_that_exists_is_no_successful_write(store: ObjectStore, proxy: FaultProxy) -> None:
    assert store.create("a", b"1")
    again = ObjectStore(S3Driver(store.url, proxy.server.options()), "another")
    assert not again.create("a", b"2")
    proxy.behaviour = Behaviour(refuse=on("PUT", Refusal(403, "QuotaExceeded")))
    with pytest.raises(ConfigurationError, match="QuotaExceeded"):
        again.put("b", b"")


def test_a_rejected_later_write_leaves_the_run_to_be_resumed(store: ObjectStore, proxy: FaultProxy) -> None:
    store.put("a", b"1")
    proxy.behaviour = Behaviour(refuse=on("PUT", Refusal(403, "QuotaExceeded", "The quota of the bucket is exceeded")))
    proxy.reset()
    with pytest.raises(StorageError, match=r"quota of the bucket is exceeded.*rerun the same command to resume"):
        store.put("b", b"1")
    assert proxy.requests["PUT"] == MAX_REJECTED_TRIES


def test_a_rejected_read_is_not_retried_for_minutes(store: ObjectStore, proxy: FaultProxy) -> None:
    store.put("a", b"1")
    proxy.reset()
    proxy.behaviour = Behaviour(refuse=on("GET", Refusal(400, "InvalidRequest")))
    with pytest.raises(StorageError, match="InvalidRequest"):
        store.read("a")
    with pytest.raises(StorageError, match="InvalidRequest"):
        list(store.list())
    assert dict(proxy.requests) == {"GET": MAX_REJECTED_TRIES, "LIST": MAX_REJECTED_TRIES}


def test_an_object_with_a_key_of_its_own_is_refused_alone(store: ObjectStore, proxy: FaultProxy) -> None:
    text = "The object was stored using a form of Server Side Encryption. The correct parameters must be provided"
    proxy.behaviour = Behaviour(refuse=on("GET", Refusal(400, "InvalidRequest", text)))
    with pytest.raises(ObjectRefusedError, match="Server Side Encryption"):
        store.read("a")


@pytest.mark.parametrize("code", ["RequestTimeout", "BadDigest", "ThrottlingException"])
def test_a_4xx_that_a_retry_mends_is_retried(store: ObjectStore, proxy: FaultProxy, code: str) -> None:
    refused = iter([Refusal(400, code)] * (MAX_REJECTED_TRIES + 1))
    proxy.behaviour = Behaviour(refuse=lambda request: next(refused, None))
    store.put("a", b"1")
    assert store.read("a") == b"1"


@pytest.mark.parametrize("refusal", REFUSED_CHECKSUMS, ids=lambda refusal: refusal.code)
def test_refused_checksums_name_the_setting_that_leaves_them_out(
    fast_bucket: Bucket, store: ObjectStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    proxy.behaviour = Behaviour(refuse=without_checksums(refusal))
    for write in (store.put, store.create):
        with pytest.raises(ConfigurationError, match="AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
            write("a", b"1")
    name, _, value = "AWS_REQUEST_CHECKSUM_CALCULATION=when_required".partition("=")
    monkeypatch.setenv(name, value)
    with_setting = open_store(fast_bucket.url("out"), "me", proxy.server.options())
    assert with_setting.create("a", b"1")


def test_a_bucket_that_requires_checksums_names_the_setting(store: ObjectStore, proxy: FaultProxy) -> None:
    text = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
    proxy.behaviour = Behaviour(refuse=on("PUT", Refusal(400, "InvalidRequest", text)))
    with pytest.raises(ConfigurationError, match="AWS_REQUEST_CHECKSUM_CALCULATION=when_supported"):
        store.put("a", b"1")


def test_a_copy_that_is_rejected_becomes_a_put(store: ObjectStore, proxy: FaultProxy) -> None:
    store.put("a", b"1")
    fetched = store.fetch("a")
    too_large = Refusal(400, "InvalidRequest", "The copy source is larger than the maximum")
    proxy.behaviour = Behaviour(refuse=lambda request: too_large if "x-amz-copy-source" in request.headers else None)
    store.copy_from("b", fetched)
    assert store.read("b") == b"1"


@pytest.mark.parametrize("scheme", ["S3", "S3A", "s3A"])
def test_the_scheme_of_a_bucket_is_case_insensitive(fast_bucket: Bucket, scheme: str) -> None:
    url = fast_bucket.url("Out").partition("://")[2]
    store = open_store(f"{scheme}://{url}", "me", fast_bucket.server.options())
    store.put("a", b"1")
    assert store.url == f"s3://{url}"
    assert open_store(f"s3://{url}", "me", fast_bucket.server.options()).read("a") == b"1"


def command(name: str, source: object, target: str) -> list[str]:
    return [name, "--input_top_dir", str(source), "--out_top_dir", target, "--device", "cpu"]


@pytest.mark.parametrize("name", ["doctor", "annotate"])
@pytest.mark.usefixtures("s3_environment")
def test_the_commands_name_what_the_server_lacks(
    fast_bucket: Bucket, proxy: FaultProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write_inputs(tmp_path / "in", 1)
    proxy.behaviour = Behaviour(refuse=without_if_none_match(NOT_IMPLEMENTED))
    assert run_cli(command(name, tmp_path / "in", fast_bucket.url("out"))) == 78
    printed = capsys.readouterr()
    assert "`If-None-Match: *`" in printed.err
    assert "Traceback" not in printed.err
    if name == "doctor":
        assert printed.out.splitlines()[-1] == "✗ exclusive create"


@pytest.mark.parametrize("is_input", [True, False], ids=["input", "output"])
@pytest.mark.usefixtures("s3_environment")
def test_doctor_shows_a_cross_where_a_bucket_cannot_be_listed(
    fast_bucket: Bucket, proxy: FaultProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_input: bool
) -> None:
    write_inputs(tmp_path / "in", 1)
    proxy.behaviour = Behaviour(refuse=without_list_v2(NOT_IMPLEMENTED))
    source, target = (
        (fast_bucket.url("in"), str(tmp_path / "out")) if is_input else (tmp_path / "in", fast_bucket.url("out"))
    )
    assert run_cli(command("doctor", source, target)) == 78
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == ("✗ folders" if is_input else "✗ output")
    assert "does not support this ListObjectsV2 request" in printed.err


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fast_bucket: Bucket) -> None:
    """No credentials anywhere, and no instance metadata service."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "BOTO_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", fast_bucket.server.endpoint_url)


@pytest.mark.usefixtures("no_credentials")
def test_missing_credentials_are_refused_within_three_seconds(
    fast_bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    assert run_cli(command("annotate", fast_bucket.url("in"), fast_bucket.url("out"))) == 78
    assert time.monotonic() - begun < 3
    assert "no credentials found: set AWS_ACCESS_KEY_ID" in capsys.readouterr().err


@pytest.mark.usefixtures("no_credentials")
def test_a_metadata_service_that_hangs_is_waited_for_once(fast_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two connections of one lookup, 1 s each: one for a token, one for a role."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}/")
        assert run_cli(command("annotate", fast_bucket.url("in"), fast_bucket.url("out"))) == 78
        assert count_connections(listener) == 2


def count_connections(listener: socket.socket) -> int:
    listener.setblocking(False)
    number = 0
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            number += 1
    return number


@pytest.mark.usefixtures("no_credentials")
def test_a_public_bucket_needs_no_credentials(moto: S3Server, new_bucket: Callable[[S3Server], Bucket]) -> None:
    bucket = new_bucket(moto)
    options = {"anon": True, "client_kwargs": {"endpoint_url": moto.endpoint_url}}
    assert open_store(bucket.url("in"), "me", options).exists()


@pytest.mark.usefixtures("no_credentials")
def test_a_credential_provider_that_is_out_of_reach_is_asked_again(
    fast_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, helper = tmp_path / "config", tmp_path / "helper"
    config.write_text(f"[default]\ncredential_process = {helper}\nregion = us-east-1\n")
    helper.write_text("#!/bin/sh\nexit 1\n")
    helper.chmod(0o755)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    driver = S3Driver(fast_bucket.url("out"), {})
    with pytest.raises(CredentialsRefusedError, match="check the credentials"):
        ObjectStore(driver, "me", Retry(timeout_s=0.5)).put("a", b"")
    server = fast_bucket.server
    keys = f'{{"Version": 1, "AccessKeyId": "{server.access_key}", "SecretAccessKey": "{server.secret_key}"}}'
    helper.write_text(f"#!/bin/sh\necho '{keys}'\n")
    ObjectStore(driver, "me").put("a", b"1")
