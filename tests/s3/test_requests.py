"""The number of requests of a run, counted at the server, and the cost of their latency."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from job.errors import InterruptedRunError
from job.run.journal import ANNOTATED
from job.run.options import WorkerOptions
from job.storage.open import new_process_id, open_store
from job.telemetry.progress_bar import Tally
from job.worker.runner import AnnotateRequest, annotate
from tests.fakes import FakeSession, demo_artifact, spec_of, use_fake_session, write_inputs
from tests.s3.data import upload
from tests.s3.fixtures import Bucket
from tests.s3.proxy import FaultProxy, fault_proxy, slow_proxy
from tests.s3.servers import S3Server

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAGE = 1000
FOLDERS = 4
ONCE = 40
"""Requests of a process for the run, the plan and the end."""


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


def request_on(bucket: Bucket, server: S3Server, folder: str = "out", **options: object) -> AnnotateRequest:
    process_id = new_process_id()
    account = server.options()
    return AnnotateRequest(
        source=open_store(bucket.url("in"), process_id, account),
        target=open_store(bucket.url(folder), process_id, account),
        artifact=demo_artifact(),
        spec=spec_of(Path("unused"), input_url=bucket.url("in")),
        is_date_given=False,
        run_name=None,
        options=WorkerOptions(device="cpu", process_id=process_id, **options),  # type: ignore[arg-type]
    )


def pages(keys: int) -> int:
    """Requests of a listing: full pages, one partial page for each folder, and those that find folders."""
    return keys // PAGE + 3 * FOLDERS + 4


@pytest.mark.parametrize("count", [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_run_a_rerun_and_a_resumed_run_keep_to_their_request_budget(
    fast_bucket: Bucket, proxy: FaultProxy, picture: bytes, use_session: FakeSession, count: int
) -> None:
    upload(fast_bucket, inputs(picture, count))
    first = cost_of(fast_bucket, proxy)
    rerun = cost_of(fast_bucket, proxy)

    def interrupt(pixels: NDArray[np.uint8]) -> None:
        if use_session.images == count + count // 2:
            raise InterruptedRunError("stopped here")

    use_session.before_image = interrupt
    begun = cost_of(fast_bucket, proxy, "resumed", is_interrupted=True)
    use_session.before_image = lambda pixels: None
    resumed = cost_of(fast_bucket, proxy, "resumed")
    for name, cost in (("first", first), ("re-run", rerun), ("interrupted", begun), ("resumed", resumed)):
        sys.stdout.write(f"{name}: {cost.total} requests in {cost.seconds:.0f} s {cost.by_kind}\n")
    shards, twice = 9, use_session.images - 2 * count
    assert first.by_kind["COPY"] == count
    assert first.total <= pages(2 * count) + 5 * count + 9 * shards + first.of_time + ONCE
    assert rerun.total <= pages(2 * count) + pages(3 * count) + ONCE
    assert rerun.by_kind["COPY"] == 0
    assert twice <= 40
    work = 5 * (count + max(twice, 0)) + 9 * (shards + 2)
    assert begun.total + resumed.total <= pages(2 * count) + work + begun.of_time + resumed.of_time + 2 * ONCE


@dataclass(frozen=True)
class Cost:
    """Requests of one process."""

    by_kind: Counter[str]
    seconds: float

    @property
    def total(self) -> int:
        return self.by_kind.total()

    @property
    def of_time(self) -> float:
        """Five requests for each started 30 s of the worker."""
        return 5 * (self.seconds // 30 + 1)


def cost_of(bucket: Bucket, proxy: FaultProxy, folder: str = "out", *, is_interrupted: bool = False) -> Cost:
    proxy.reset()
    begun = time.monotonic()
    request = request_on(bucket, proxy.server, folder)
    if is_interrupted:
        with pytest.raises(InterruptedRunError):
            annotate(request, Tally())
    else:
        assert annotate(request, Tally()) is not None
    return Cost(Counter(proxy.requests), time.monotonic() - begun)


def test_20_ms_of_latency_cost_at_most_a_tenth_of_the_throughput(
    fast_bucket: Bucket, picture: bytes, use_session: FakeSession
) -> None:
    """The device takes 60 ms for an image without processor time, like a GPU, so only waiting is measured."""
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


def rate_of(request: AnnotateRequest, count: int) -> float:
    """Images per second of the worker, without planning."""
    seen: list[float] = []
    original = Tally.add

    class Timed(Tally):
        def add(self, result: str, number: int = 1) -> None:
            if result == ANNOTATED and number:
                seen.append(time.monotonic())
            original(self, result, number)

    assert annotate(request, Timed()) is not None
    assert len(seen) == count
    skip = count // 10
    return (count - 2 * skip) / (seen[-skip] - seen[skip])


@pytest.fixture
def use_session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    session = FakeSession()
    use_fake_session(monkeypatch, session)
    return session
