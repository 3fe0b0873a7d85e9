"""Failed requests are retried with backoff, and time out with a reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from job.errors import (
    ConfigurationError,
    CredentialsRefusedError,
    ObjectMissingError,
    RunConflictError,
    StorageError,
)
from job.storage.retry import MAX_REJECTED_TRIES, RefusedError, RejectedError, Retry, ThrottledError, TransientError
from job.system.leaving import Leaving
from tests.fakes import JumpingClock


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def request() -> str:
        if left:
            raise left.pop()
        return "answer"

    return request


def test_a_request_is_retried_with_backoff_until_it_succeeds() -> None:
    clock = JumpingClock()
    assert Retry(clock=clock).call("s3://b/k", failing(12, TransientError("503"))) == "answer"
    assert len(clock.waits) == 12
    assert max(clock.waits[:2]) <= 0.4
    assert max(clock.waits) <= 20


def test_a_request_times_out_after_300_s_with_key_and_reason() -> None:
    clock = JumpingClock()
    with pytest.raises(
        StorageError, match=r"s3://b/k: 503 Slow Down. Tried \d+ times in 3\d\d s; rerun the same command"
    ):
        Retry(clock=clock).call("s3://b/k", failing(10_000, TransientError("503 Slow Down")))
    assert 300 < clock.now_s < 330


def test_credentials_that_were_never_accepted_are_retried_for_60_s() -> None:
    clock = JumpingClock()
    with pytest.raises(CredentialsRefusedError, match=r"InvalidAccessKeyId.*check the credentials"):
        Retry(clock=clock).call("s3://b/k", failing(10_000, RefusedError("InvalidAccessKeyId")))
    assert 60 < clock.now_s <= 80


def test_credentials_that_were_accepted_before_are_retried_for_300_s() -> None:
    clock = JumpingClock()
    retry = Retry(clock=clock)
    with pytest.raises(ObjectMissingError):
        retry.call("s3://b/k", failing(1, ObjectMissingError("no such object")))
    with pytest.raises(StorageError, match="ExpiredToken") as caught:
        retry.call("s3://b/k", failing(10_000, RefusedError("ExpiredToken")))
    assert not isinstance(caught.value, CredentialsRefusedError)
    assert clock.now_s > 300


def test_a_store_that_is_down_does_not_keep_a_process_from_leaving() -> None:
    clock = JumpingClock()
    retry = Retry(clock=clock)
    with pytest.raises(StorageError):
        retry.call("s3://b/image", failing(10_000, TransientError("503")))
    for last_write in ("journal", "heartbeat"):
        before_s = clock.now_s
        with pytest.raises(StorageError):
            retry.call(f"s3://b/{last_write}", failing(10_000, TransientError("503")), is_write=True)
        assert clock.now_s - before_s < 5 + 20


def test_a_store_that_has_served_again_is_not_down() -> None:
    clock = JumpingClock()
    retry = Retry(clock=clock)
    with pytest.raises(StorageError):
        retry.call("s3://b/k", failing(10_000, TransientError("503")))
    retry.call("s3://b/k", failing(0, TransientError("503")))
    assert retry.call("s3://b/k", failing(12, TransientError("503"))) == "answer"


def test_a_leaving_process_retries_nothing_after_35_s(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = JumpingClock()
    leaving = Leaving(clock)
    monkeypatch.setattr("job.storage.retry.LEAVING", leaving)
    leaving.begin()
    try:
        with pytest.raises(StorageError):
            Retry(clock=clock).call("s3://b/k", failing(10_000, TransientError("503")))
    finally:
        leaving.end()
    assert 35 < clock.now_s < 35 + 20 + 1
    assert not leaving.is_overdue


def test_throttling_reduces_the_requests_at_a_time_and_success_raises_them() -> None:
    clock = JumpingClock()
    retry = Retry(clock=clock)
    before = retry.concurrency.limit
    retry.call("s3://b/k", failing(3, ThrottledError("SlowDown")))
    reduced = retry.concurrency.limit
    for _ in range(200):
        retry.call("s3://b/k", failing(0, ThrottledError("SlowDown")))
    assert 1 <= reduced <= before / 2 + 1
    assert reduced < retry.concurrency.limit <= 64


def test_other_failures_keep_the_requests_at_a_time() -> None:
    retry = Retry(clock=JumpingClock())
    before = retry.concurrency.limit
    retry.call("s3://b/k", failing(3, TransientError("500")))
    assert retry.concurrency.limit >= before


def test_a_throttled_store_serves_the_threads_one_after_another() -> None:
    retry, lock, most, running = Retry(), threading.Lock(), 0, 0
    retry.concurrency.limit = 1.0

    def request() -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
            retry.concurrency.limit = 1.0

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: retry.call("k", request), range(24)))
    assert most <= 2  # each success allows one more until the next has begun


def test_the_guard_is_called_before_every_try() -> None:
    clock, asked = JumpingClock(), []

    def guard() -> None:
        asked.append(clock.now_s)
        if len(asked) == 3:
            raise RunConflictError("superseded")

    with pytest.raises(RunConflictError):
        Retry(clock=clock).call("s3://b/k", failing(10, TransientError("503")), guard)
    assert len(clock.waits) == 2


def test_other_errors_are_not_retried() -> None:
    clock = JumpingClock()
    with pytest.raises(ZeroDivisionError):
        Retry(clock=clock).call("s3://b/k", failing(1, ZeroDivisionError()))
    assert clock.waits == []


REJECTED = RejectedError("InvalidArgument: a header")


def test_a_rejected_request_is_tried_a_few_times_within_seconds() -> None:
    clock = JumpingClock()
    assert Retry(clock=clock).call("s3://b/k", failing(MAX_REJECTED_TRIES - 1, REJECTED)) == "answer"
    with pytest.raises(StorageError, match=r"InvalidArgument: a header. Rejected 4 times.*rerun the same command"):
        Retry(clock=clock).call("s3://b/k", failing(MAX_REJECTED_TRIES, REJECTED))
    assert clock.now_s < 10


def test_a_rejected_write_is_a_configuration_error_until_a_write_succeeds() -> None:
    retry = Retry(clock=JumpingClock())
    retry.call("s3://b", lambda: "a read")
    assert retry.call("s3://b/taken", lambda: False, is_write=True) is False
    with pytest.raises(ConfigurationError, match="InvalidArgument"):
        retry.call("s3://b/k", failing(MAX_REJECTED_TRIES, REJECTED), is_write=True)
    retry.call("s3://b/k", lambda: None, is_write=True)
    with pytest.raises(StorageError, match="InvalidArgument"):
        retry.call("s3://b/k", failing(MAX_REJECTED_TRIES, REJECTED), is_write=True)


def test_refused_writes_are_wrong_credentials_where_reads_are_served() -> None:
    retry = Retry(clock=JumpingClock())

    def refused() -> None:
        raise RefusedError("AccessDenied")

    retry.call("list", lambda: True)
    with pytest.raises(CredentialsRefusedError, match=r"AccessDenied.*permissions"):
        retry.call("put", refused, is_write=True)
    retry.call("put", lambda: True, is_write=True)
    with pytest.raises(StorageError) as caught:
        retry.call("put", refused, is_write=True)
    assert not isinstance(caught.value, CredentialsRefusedError)
