"""A store on real S3 servers."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from job.errors import (
    CredentialsRefusedError,
    ObjectMissingError,
    RunConflictError,
    StorageError,
    UnstorableObjectError,
    UsageError,
)
from job.plan.input_list import open_input_list
from job.storage.object_store import ObjectStore
from job.storage.open import Address, open_store
from job.storage.retry import Retry
from job.storage.s3 import S3Driver
from job.storage.store import Store
from tests.s3.fixtures import Bucket
from tests.s3.proxy import FAULTS, Behaviour, FaultProxy, fault_proxy
from tests.s3.servers import S3Server

NewBucket = Callable[[S3Server], Bucket]


def store_of(bucket: Bucket, folder: str = "out", server: S3Server | None = None, timeout_s: float = 60) -> ObjectStore:
    options = (server or bucket.server).options(read_timeout=0.5)
    return ObjectStore(S3Driver(bucket.url(folder), options), "me", Retry(timeout_s=timeout_s))


def keys(store: Store, *arguments: Any, **more: Any) -> list[str]:
    return [item.key for item in store.list(*arguments, **more)]


def test_objects_are_read_as_they_were_put(bucket: Bucket) -> None:
    store = store_of(bucket)
    for key in ("a/b.json", "a.json", "_sam3/x", "é \U0001f600+%/ü&?.json"):
        store.put(key, key.encode())
    listed = ["_sam3/x", "a.json", "a/b.json", "é \U0001f600+%/ü&?.json"]
    assert keys(store) == listed
    assert keys(store, skip="_sam3") == listed[1:]
    assert keys(store, "a") == ["a/b.json"]
    assert keys(store, after="a/b") == ["a/b.json", listed[-1]]
    assert all(store.read(key) == key.encode() for key in listed)
    assert store.list_dirs("") == ("_sam3", "a", "é \U0001f600+%")
    assert store.existing_suffixes("a/b") == {".json"}
    store.put("a/b.png", b"x")
    assert store.existing_suffixes("a/b", (".webp", ".png")) == {".png"}
    store.delete("a/b.png")
    found = store.stat("a.json")
    assert found is not None
    assert found.size == 6
    assert abs(store.now_s() - found.modified_s) < 30
    store.delete("a.json")
    store.delete("a.json")
    assert store.stat("a.json") is None
    with pytest.raises(ObjectMissingError, match=r"s3://.*/out/a.json: no such object"):
        store.read("a.json")


def test_a_missing_bucket_is_a_usage_error(bucket: Bucket) -> None:
    store = open_store("s3://no-such-bucket-here/x", "me", bucket.server.options())
    assert not store.exists()
    with pytest.raises(UsageError, match=r"NoSuchBucket.*Give a bucket that exists"):
        keys(store)
    assert open_store(bucket.url("nothing"), "me", bucket.server.options()).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foo": 1}, r"cannot be opened with these storage options: .*'foo'"),
        (
            {"client_kwargs": {"endpoint_url": "nowhere"}},
            r"cannot be opened with these storage options: Invalid endpoint",
        ),
        ({"profile": "unknown"}, r"profile \(unknown\) could not be found"),
    ],
)
def test_invalid_options_are_a_usage_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_store("s3://bucket/x", "me", options)


def test_one_of_many_threads_creates_an_object(bucket: Bucket) -> None:
    stores = [store_of(bucket) for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        for number in range(20):
            key = f"raced/{number}"
            wins = list(pool.map(lambda n, key=key: stores[n % 4].create(key, f"{n}".encode()), range(16)))  # type: ignore[misc]
            assert sum(wins) == 1
            assert stores[0].read(key) == f"{wins.index(True)}".encode()
            assert stores[0].create(key, f"{wins.index(True)}".encode()), "the stored object has these bytes"


def test_many_pages_are_listed_in_order(bucket: Bucket) -> None:
    store = store_of(bucket)
    names = [f"day{n % 7}/cam{n % 3}/{n:05d}.json" for n in range(1300)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
        list(pool.map(lambda n: store.put(f"_sam3/{n:04d}", b""), range(50)))
    assert keys(store, skip="_sam3") == sorted(names)
    assert keys(store, after="day3/cam1/00003.json") == [
        name for name in sorted(names) if name > "day3/cam1/00003.json"
    ]


def test_a_copy_inside_the_storage_is_server_side(bucket: Bucket) -> None:
    with fault_proxy(bucket.server) as proxy:
        source, target = store_of(bucket, "in", proxy.server), store_of(bucket, "out", proxy.server)
        source.put("a.jpg", b"picture")
        fetched = source.fetch("a.jpg")
        proxy.reset()
        target.copy_from("a.jpg", fetched)
        assert dict(proxy.requests) == {"COPY": 1}
        assert target.read("a.jpg") == b"picture"


def test_a_changed_original_is_not_copied(minio: S3Server, new_bucket: NewBucket) -> None:
    bucket = new_bucket(minio)  # moto ignores x-amz-copy-source-if-match
    source, target = store_of(bucket, "in"), store_of(bucket, "out")
    source.put("a.jpg", b"picture")
    fetched = source.fetch("a.jpg")
    source.put("a.jpg", b"another")
    target.copy_from("b.jpg", fetched)
    assert target.read("b.jpg") == b"picture", "the bytes that were read, not the current ones"


def test_a_key_that_the_storage_cannot_hold_is_an_error_at_once(minio: S3Server, new_bucket: NewBucket) -> None:
    store = store_of(new_bucket(minio))
    for key in ("a//b", "x" * 1100):
        with pytest.raises(UnstorableObjectError, match=r"s3://.*/out/"):
            store.put(key, b"")


def test_a_copy_to_another_account_uploads_the_bytes(bucket: Bucket) -> None:
    source = store_of(bucket, "in")
    source.put("a.jpg", b"picture")
    options = bucket.server.options(read_timeout=2, connect_timeout=9)
    target = open_store(bucket.url("out"), "me", options)
    target.copy_from("a.jpg", source.fetch("a.jpg"))
    assert target.read("a.jpg") == b"picture"


@pytest.fixture
def proxy(bucket: Bucket) -> Any:
    with fault_proxy(bucket.server) as running:
        yield running


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_retried(bucket: Bucket, proxy: FaultProxy, fault: str) -> None:
    store = store_of(bucket, server=proxy.server)
    store.put("x", b"x" * 3000)
    proxy.behaviour = Behaviour(fault_rate=0.5, faults=(fault,), hang_s=0.8)
    for number in range(6):
        assert store.create(f"c{number}", b"mine")
        store.put(f"p{number}", b"p")
        assert store.read("x") == b"x" * 3000
        assert len(keys(store)) == 3 + 2 * number
        assert store.stat(f"p{number}") is not None
    assert {kind for name, kind in proxy.injected if name == fault} >= {"CREATE", "LIST"} or proxy.injected.total() >= 8
    assert proxy.injected.total() == sum(proxy.injected.values()) > 3


def test_an_input_list_is_read_with_retries_and_the_options_of_the_input(bucket: Bucket, proxy: FaultProxy) -> None:
    wanted = [f"{number:05}.json" for number in range(20_000)]
    text = gzip.compress("\n".join(reversed(wanted)).encode())
    store_of(bucket, "lists").put("night+1 ?.gz", text)
    source = Address(bucket.url("in"), proxy.server.options(read_timeout=0.5))
    proxy.behaviour = Behaviour(fault_rate=0.5, faults=("error_503", "reset", "reset_midway"), kinds=("GET",))
    found = open_input_list(bucket.url("lists/night+1 ?.gz"), None, source, source.url)
    assert found.sha256 == hashlib.sha256(text).hexdigest()
    assert list(found.json_keys()) == wanted
    assert sum(proxy.injected.values()) >= 2
    with pytest.raises(UsageError, match=r"--input_list s3://.*/none cannot be read"):
        open_input_list(bucket.url("lists/none"), None, source, source.url)


def test_an_outage_times_out_with_the_key_and_the_next_step(bucket: Bucket, proxy: FaultProxy) -> None:
    store = store_of(bucket, server=proxy.server, timeout_s=1)
    store.put("x", b"x")
    proxy.behaviour = Behaviour(is_out=True)
    with pytest.raises(
        StorageError, match=r"s3://.*/out/y: SlowDown: injected. Tried .* rerun the same command to resume"
    ):
        store.put("y", b"y")


def test_a_guard_stops_a_put_that_is_retried(bucket: Bucket, proxy: FaultProxy) -> None:
    store = store_of(bucket, server=proxy.server)
    tries: list[float] = []

    def guard() -> None:
        tries.append(time.monotonic())
        if len(tries) == 3:
            raise RunConflictError("superseded")

    proxy.behaviour = Behaviour(is_out=True)
    with pytest.raises(RunConflictError):
        store.put("late", b"", guard)
    proxy.behaviour = Behaviour()
    assert store.stat("late") is None


def test_wrong_credentials_are_reported_as_such(minio: S3Server, new_bucket: NewBucket) -> None:
    bucket = new_bucket(minio)
    options = {**minio.options(), "secret": "wrong"}
    store = ObjectStore(S3Driver(bucket.url("x"), options), "me", Retry(timeout_s=1))
    with pytest.raises(CredentialsRefusedError, match=r"SignatureDoesNotMatch.*check the credentials"):
        store.put("a", b"")
    with pytest.raises(CredentialsRefusedError):
        keys(store)


def test_requests_of_threads_are_concurrent(bucket: Bucket, proxy: FaultProxy) -> None:
    store = store_of(bucket, server=proxy.server)
    store.put("x", b"x")
    proxy.behaviour = Behaviour(latency_s=0.2)
    begun = time.monotonic()
    threads = [threading.Thread(target=store.read, args=("x",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun < 2
