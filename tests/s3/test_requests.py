"""What a run costs in requests (runs.md, rule 13), counted at the server; and how well it hides their latency."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import job.building
from job.annotating import Request, annotate
from job.errors import InterruptedRunError
from job.options import WorkerOptions, new_attempt
from job.progress import Tally
from job.storage import open_store
from tests.fakes import FakeSession, demo_artifact, spec_of, write_inputs
from tests.s3.data import upload
from tests.s3.fixtures import Bucket
from tests.s3.proxy import FaultProxy, fault_proxy, slow_proxy
from tests.s3.servers import S3Server

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT = 2000
PAGE = 1000
ONCE = 40
"""Requests of a process that no rule counts: finding the run, the plan, the end."""


@pytest.fixture
def proxy(fast_bucket: Bucket) -> Iterator[FaultProxy]:
    with fault_proxy(fast_bucket.server) as running:
        yield running


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    write_inputs(tmp_path / "one", 1)
    return (tmp_path / "one" / "00000.jpg").read_bytes()


def inputs(picture: bytes, count: int) -> dict[str, bytes]:
    return {
        f"day{n % 4}/{n:05d}{s}": (b"{}" if s == ".json" else picture) for n in range(count) for s in (".json", ".jpg")
    }


def request_on(bucket: Bucket, server: S3Server, folder: str = "out", **options: object) -> Request:
    attempt = new_attempt()
    account = server.options()
    return Request(
        source=open_store(bucket.url("in"), attempt, account),
        target=open_store(bucket.url(folder), attempt, account),
        artifact=demo_artifact(),
        spec=spec_of(Path("unused"), input_url=bucket.url("in")),
        is_date_given=False,
        run_name=None,
        options=WorkerOptions(device="cpu", attempt=attempt, **options),  # type: ignore[arg-type]
    )


def pages(keys: int, folders: int) -> int:
    """Requests of a listing: its pages, the last one of each folder not full, and those that look for folders."""
    return keys // PAGE + 3 * folders + 4


def test_the_cost_of_a_run_a_rerun_and_a_resumed_run(
    fast_bucket: Bucket, proxy: FaultProxy, picture: bytes, use_session: FakeSession
) -> None:
    upload(fast_bucket, inputs(picture, COUNT))
    stop_after = COUNT // 2

    def interrupt(pixels: NDArray[np.uint8]) -> None:
        if use_session.images == stop_after:
            raise InterruptedRunError("stopped here")

    use_session.before_image = interrupt
    first = cost_of(fast_bucket, proxy, is_interrupted=True)
    use_session.before_image = lambda pixels: None
    second = cost_of(fast_bucket, proxy)
    done_again = use_session.images - COUNT
    third = cost_of(fast_bucket, proxy)
    shards = COUNT // 250
    sys.stdout.write(f"first half {first}, second half {second}, re-run {third}; {done_again} done again\n")
    images = COUNT + max(0, done_again)
    reads_and_writes = first["GET"] + second["GET"], first["COPY"] + second["COPY"]
    assert reads_and_writes[1] <= images
    total = first["total"] + second["total"]
    intervals = (first["seconds"] + second["seconds"]) / 30 + 2
    allowed = pages(2 * COUNT, 4) + 5 * images + 8 * (shards + 2) + 4 * intervals + 2 * ONCE
    assert total <= allowed
    assert third["total"] <= pages(2 * COUNT, 4) + pages(3 * COUNT, 4) + ONCE
    assert third["COPY"] == 0


def cost_of(bucket: Bucket, proxy: FaultProxy, *, is_interrupted: bool = False) -> dict[str, float]:
    proxy.reset()
    begun = time.monotonic()
    request = request_on(bucket, proxy.server)
    if is_interrupted:
        with pytest.raises(InterruptedRunError):
            annotate(request, Tally())
    else:
        assert annotate(request, Tally()) is not None
    return {**proxy.requests, "total": proxy.requests.total(), "COPY": proxy.requests["COPY"],
            "GET": proxy.requests["GET"], "seconds": time.monotonic() - begun}  # fmt: skip


def test_latency_is_hidden(fast_bucket: Bucket, picture: bytes, use_session: FakeSession) -> None:
    """A device that takes 60 ms an image and no processor, as a GPU does: what is measured is the waiting."""
    count, rates = 200, dict[str, list[float]](memory=[], s3=[])
    files = inputs(picture, count)
    upload(fast_bucket, files)
    use_session.before_image = lambda pixels: time.sleep(0.06)
    with slow_proxy(fast_bucket.server, 0.02) as server:
        for turn in range(2):
            memory = open_store(f"memory://turn{turn}/in", "me")
            for key, data in files.items():
                memory.put(key, data)
            on_s3 = request_on(fast_bucket, server, f"out{turn}", batch_size=1)
            in_memory = replace(on_s3, source=memory, target=open_store(f"memory://turn{turn}/out", "me"))
            rates["memory"].append(rate_of(in_memory, count))
            rates["s3"].append(rate_of(on_s3, count))
    ratio = max(rates["s3"]) / max(rates["memory"])
    sys.stdout.write(f"images/s from memory {rates['memory']}, from S3 with 20 ms {rates['s3']}: {ratio:.3f}\n")
    assert ratio >= 0.9


def rate_of(request: Request, count: int) -> float:
    """Images a second of the worker at work, planning left out."""
    seen: list[float] = []
    original = Tally.add

    class Timed(Tally):
        def add(self, result: str, number: int = 1) -> None:
            seen.append(time.monotonic())
            original(self, result, number)

    assert annotate(request, Timed()) is not None
    assert len(seen) == count
    skip = count // 10
    return (count - 2 * skip) / (seen[-skip] - seen[skip])


@pytest.fixture
def use_session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    session = FakeSession()
    monkeypatch.setattr(job.building, "open_session", lambda artifact, **options: session)
    return session
