"""The real worker over the border of a million shards, and a plan of a folder in a slow store."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import msgspec
import pytest

from job.plan.plan import Plan, PlannedInput, shard_name
from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing, write_shards
from job.run.options import WorkerOptions
from job.run.run import open_run
from job.storage.local.store import LocalStore
from job.storage.object_store import ObjectStore
from job.storage.store import FolderTest, Guard, StoredObject, no_folder
from job.telemetry.progress_bar import Tally
from job.tools.progress import read_progress
from job.worker.runner import annotate
from job.worker.shards import Marker
from tests.bench.scale import SyntheticDriver, SyntheticOutput
from tests.bench.simulated import DONE, LINE
from tests.fakes import FakeSession, request_of, spec_of, use_fake_session, write_inputs

SHARDS, OPEN = 1_000_020, 40
"""Shards of one input; the last ones, on both sides of number 1,000,000, are processed, the others are complete."""


class BorderStore(LocalStore):
    """A folder in which the markers and rows of the complete shards are simulated."""

    def list(
        self, prefix: str = "", skip: str | None = None, after: str = "", is_optional: FolderTest = no_folder
    ) -> Iterator[StoredObject]:
        """Markers of complete shards come first, those that are stored after them."""
        if f"{prefix}/" == DONE:
            keys = (f"{DONE}{shard_name(number)}.json" for number in range(SHARDS - OPEN))
            yield from (StoredObject(key, 160, 0.0) for key in keys if key > after)
        yield from super().list(prefix, skip, after, is_optional)

    def read(self, key: str) -> bytes:
        """Markers of complete shards count one image."""
        if key.startswith(DONE) and int(key[len(DONE) :].removesuffix(".json")) < SHARDS - OPEN:
            marker = Marker(attempt="x", totals={"annotated": 1}, instances={}, dropped={}, failures=())
            return msgspec.json.encode(marker)
        return super().read(key)

    def put(self, key: str, data: bytes, guard: Guard | None = None) -> None:
        """Rows of complete shards are not stored."""
        if data != LINE + b"\n":
            super().put(key, data, guard)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_ends_when_workers_have_crossed_a_million_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_session(monkeypatch, FakeSession())
    source, target = tmp_path / "in", tmp_path / "out"
    write_inputs(source, OPEN)
    rows = [PlannedInput(json=f"{n:05d}.json", image=f"{n:05d}.jpg", prior=False) for n in range(OPEN)]
    store = BorderStore(target, "x")
    run = open_run(store, spec_of(source), name="r", is_date_given=False, process_id="x")
    lines = chain(repeat(LINE, SHARDS - OPEN), map(msgspec.json.encode, rows))
    parts = tuple(write_shards(run, "n", lines, Sizing(shard_size=1)))
    plan = Plan(nonce="n", parts=parts, inputs_listed=SHARDS, inputs_done=0, images_without_json=0)
    store.create(run.key("plan.json"), msgspec.json.encode(plan))
    ends, indexes = [], SHARDS // 20
    for index in (indexes - 2, indexes - 1):
        options = WorkerOptions(device="cpu", index=index, num_indexes=indexes)
        begun = time.monotonic()
        request = replace(request_of(source, target, run_name="r", options=options), target=store)
        ends.append(annotate(request, Tally()))
        done = read_progress(store, "r").done
        sys.stdout.write(f"index {index} of {indexes}: {time.monotonic() - begun:.0f} s, {done} of {SHARDS} done\n")
    assert ends[0] is None
    assert ends[1] is not None
    assert (ends[1].outcome, ends[1].annotated) == ("succeeded", SHARDS)
    assert len(list(target.glob("*.npz"))) == OPEN


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_folder_of_a_million_pictures_in_a_slow_store_is_planned_in_40_s(tmp_path: Path) -> None:
    """A page takes 0.2 s, so one page after another would take 400 s."""
    count = 1_000_000
    driver = SyntheticDriver(count, (".jpg", ".json"), in_folder=count, page_s=0.2)
    source = ObjectStore(driver, "scale")  # type: ignore[arg-type]
    outputs = ObjectStore(SyntheticDriver(0, (".json",)), "scale")  # type: ignore[arg-type]
    target = SyntheticOutput(tmp_path, outputs)
    run = open_run(target, spec_of(Path("in")), name="r", is_date_given=False, process_id="x")
    begun = time.monotonic()
    plan = make_plan(run, Selection(run, source), Sizing())
    took_s = time.monotonic() - begun
    sys.stdout.write(f"{count} pictures, {2 * count // 1000} pages of 0.2 s: planned in {took_s:.0f} s\n")
    assert plan.inputs_planned == count
    assert took_s < 40
