"""The inputs that count as failed: precedence of runs, and bounded memory of an audit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from job.plan.plan import shard_name
from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.run.journal import ResultRow, ShardJournal
from job.run.options import WorkerOptions
from job.run.run import Run, newest_run, open_run
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from job.storage.store import FolderTest, StoredObject, no_folder
from job.telemetry.progress_bar import Tally
from job.tools.audit import AuditCounts
from job.tools.audit_deep import audit
from job.worker.runner import annotate
from tests.fakes import request_of, spec_of, write_inputs

pytestmark = pytest.mark.usefixtures("fake_session")

ALL_MAY_FAIL = WorkerOptions(device="cpu", max_failed_fraction=1.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "in", 4)
    return tmp_path / "in"


def failed_once(source: Path, target: Path, **changes: object) -> None:
    """A run in which image 00001 cannot be read; the image is repaired afterwards."""
    picture = (source / "00001.jpg").read_bytes()
    (source / "00001.jpg").write_bytes(b"broken")
    annotate(request_of(source, target, run_name="failing", options=ALL_MAY_FAIL, **changes), Tally())
    (source / "00001.jpg").write_bytes(picture)


def begun(source: Path, target: Path, name: str, *rows: ResultRow, **changes: object) -> Run:
    """An unfinished run with rows in parts of several processes."""
    store = LocalStore(target, "x")
    run = open_run(store, spec_of(source, **changes), name=name, is_date_given=False, process_id="x")
    make_plan(run, Selection(run, LocalStore(source, "x")), Sizing(shard_size=100))
    for number, row in enumerate(rows):
        journal = ShardJournal(run, shard_name(0), f"attempt{number}")
        journal.add(row)
        journal.write()
    return run


FAILED_ROW = ResultRow(json="00001.json", result="failed", reason="no picture")
STORED_ROW = ResultRow(json="00001.json", result="annotated")


def kind_of_00001(source: Path, target: Path) -> str:
    store = LocalStore(target, "auditor")
    findings = audit(LocalStore(source, "auditor"), store, newest_run(store).spec, AuditCounts(), deep=False)
    return next((finding.kind for finding in findings if finding.key == "00001.json"), "annotated")


def test_a_failed_row_of_an_unfinished_run_counts(source: Path, tmp_path: Path) -> None:
    run = begun(source, tmp_path / "out", "r", FAILED_ROW)
    assert kind_of_00001(source, tmp_path / "out") == "failed"
    run.write_end(RunEnd(outcome="superseded", by="x", superseded_by="younger"))
    assert kind_of_00001(source, tmp_path / "out") == "failed", "a run that was superseded has no failures.jsonl"


@pytest.mark.parametrize("rows", [(FAILED_ROW, STORED_ROW), (STORED_ROW, FAILED_ROW)], ids=["first", "last"])
def test_a_removed_output_is_missing_although_a_run_failed_on_it(
    source: Path, tmp_path: Path, rows: tuple[ResultRow, ...]
) -> None:
    begun(source, tmp_path / "out", "r", *rows)
    assert kind_of_00001(source, tmp_path / "out") == "missing"


def test_the_newer_run_takes_precedence(source: Path, tmp_path: Path) -> None:
    failed_once(source, tmp_path / "out")
    assert kind_of_00001(source, tmp_path / "out") == "failed"
    begun(source, tmp_path / "out", "younger", STORED_ROW)
    assert kind_of_00001(source, tmp_path / "out") == "missing"


def test_a_newer_run_of_a_part_does_not_change_the_rest(source: Path, tmp_path: Path) -> None:
    failed_once(source, tmp_path / "out")
    annotate(request_of(source, tmp_path / "out", include=("00000*",), override=True), Tally())
    assert kind_of_00001(source, tmp_path / "out") == "failed"


def test_failures_are_known_when_the_input_has_moved(source: Path, tmp_path: Path) -> None:
    failed_once(source, tmp_path / "out")
    source.rename(tmp_path / "moved")
    assert kind_of_00001(tmp_path / "moved", tmp_path / "out") == "failed"


def test_a_complete_output_is_annotated_despite_failed_rows(source: Path, tmp_path: Path) -> None:
    annotate(request_of(source, tmp_path / "out"), Tally())
    begun(source, tmp_path / "out", "r", FAILED_ROW, override=True)
    assert kind_of_00001(source, tmp_path / "out") == "annotated"


class ListedStore(LocalStore):
    """A folder with a synthetic listing and real runs."""

    def __init__(self, folder: Path, suffixes: tuple[str, ...], count: int) -> None:
        super().__init__(folder, "listed")
        self._suffixes = suffixes
        self._count = count

    def list(
        self, prefix: str = "", skip: str | None = None, after: str = "", is_optional: FolderTest = no_folder
    ) -> Iterator[StoredObject]:
        if prefix:
            yield from super().list(prefix, skip, after)
            return
        for number in range(self._count):
            for suffix in self._suffixes:
                if number % 5 or suffix == ".json":
                    yield StoredObject(f"day{number // 1000:04d}/{number:09d}{suffix}", 1, 0.0)


def peak_bytes(tmp_path: Path, count: int) -> int:
    """Of an audit in which every fifth input has failed, as a table of that size says."""
    target = tmp_path / f"out{count}"
    source = ListedStore(tmp_path / "in", (".jpg", ".json"), count)
    run = begun(tmp_path, target, "r")
    lines = (f'{{"json":"day{n // 1000:04d}/{n:09d}.json","reason":"no image"}}\n' for n in range(0, count, 5))
    run.store.put(run.key("failures.jsonl"), "".join(lines).encode())
    run.write_end(RunEnd(outcome="too_many_failed", by="x"))
    table_bytes = (target / "_sam3/runs/r/failures.jsonl").stat().st_size
    counts = AuditCounts()
    listed = ListedStore(target, (".jpg", ".json", ".npz"), count)
    tracemalloc.start()
    for _ in audit(source, listed, run.spec, counts, deep=False):
        pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (counts.inputs, counts.findings["failed"]) == (count, count // 5)
    return most - table_bytes


@pytest.mark.parametrize(
    ("few", "many"),
    [
        pytest.param(2_000, 20_000, id="20 thousand"),
        pytest.param(20_000, 200_000, id="200 thousand", marks=pytest.mark.slow),
    ],
)
def test_memory_does_not_grow_with_the_output(tmp_path: Path, few: int, many: int) -> None:
    assert peak_bytes(tmp_path, many) < peak_bytes(tmp_path, few) + 200_000
