"""A worker whose store or shard fails, and the rows of the instance table that it buffers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from job.errors import InterruptedRunError, ObjectMissingError, UnreadableObjectError
from job.formats.instance_table import decode_part
from job.run.options import WorkerOptions
from job.run.run import open_run
from job.storage.local.store import LocalStore
from job.storage.store import Fetched
from job.telemetry.observer import Load, NullObserver
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import request_of, write_inputs


class DamagedStore(LocalStore):
    """A folder of which the first files of a listing cannot be read."""

    def __init__(self, folder: Path, damaged: int, error: type[Exception]) -> None:
        super().__init__(folder, "damaged")
        self._damaged = damaged
        self._error = error

    def fetch(self, key: str) -> Fetched:
        if int(key[:5]) < self._damaged:
            raise self._error(f"{key}: Input/output error")
        return super().fetch(key)


def annotate_damaged(folder: Path, *, inputs: int, damaged: int, error: type[Exception]) -> int:
    """Annotate a folder with damaged files; returns how many inputs failed."""
    write_inputs(folder / "in", inputs)
    request = request_of(folder / "in", folder / "out", options=WorkerOptions(device="cpu", max_failed_fraction=1))
    end = annotate(replace(request, source=DamagedStore(folder / "in", damaged, error)), Tally())
    assert end is not None
    assert end.annotated == inputs - damaged
    return end.failed


@pytest.mark.parametrize("error", [UnreadableObjectError, ObjectMissingError])
def test_unreadable_files_fail_alone_when_others_are_served(tmp_path: Path, error: type[Exception]) -> None:
    assert annotate_damaged(tmp_path, inputs=45, damaged=40, error=error) == 40


def test_worker_stops_when_a_hundred_files_in_a_row_are_unreadable(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError, match=r"100 images in a row failed, the last with: .*Input/output error"):
        annotate_damaged(tmp_path, inputs=110, damaged=110, error=UnreadableObjectError)


class LoadObserver(NullObserver):
    """Keeps the load of the worker, and its resident bytes whenever an image has a result."""

    def __init__(self) -> None:
        self.resident_bytes: list[int] = []

    def image_finished(self, result: str, seconds: Mapping[str, float]) -> None:
        self.resident_bytes.append(self.load().resident_bytes)

    def worker_ready(self, load: Callable[[], Load]) -> None:
        self.load = load


def annotate_with_rows(folder: Path, inputs: int, **changes: Any) -> tuple[Path, int]:
    """Annotate plain pictures; returns the folder of the run, and the resident bytes that are held at the end."""
    write_inputs(folder / "in", inputs)
    observer = LoadObserver()
    request = request_of(folder / "in", folder / "out", run_name="one", **changes)
    annotate(replace(request, observer=observer), Tally())
    return folder / "out/_sam3/runs/one", observer.load().resident_bytes


def rows_by_part(run: Path) -> list[list[str]]:
    """The keys of the rows of every part of the instance table."""
    return [[row.json for row in decode_part(part.read_bytes())] for part in sorted(run.glob("instances/*/*"))]


def test_every_image_has_its_rows_and_no_bytes_stay_held(tmp_path: Path) -> None:
    run, held = annotate_with_rows(tmp_path, 12)
    assert sorted(chain.from_iterable(rows_by_part(run))) == [f"{number:05d}.json" for number in range(12)]
    assert len(rows_by_part(run)) == len(list((run / "done").iterdir())), "one part a shard, written at its end"
    assert held == 0


def test_many_rows_are_stored_before_the_interval_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job.worker.worker.MAX_ROW_BYTES", 1)
    options = WorkerOptions(device="cpu", shard_size=20)
    run, held = annotate_with_rows(tmp_path, 20, options=options)
    assert [len(keys) for keys in rows_by_part(run)] == [1] * 20
    assert len(list((run / "journal").glob("*/*"))) == 21, "a start row, and the last row with the leave row"
    assert held == 0


def test_rows_that_wait_for_the_journal_are_held_as_resident_bytes(tmp_path: Path) -> None:
    """When the last image has its result, no image is in flight, and the rows of the others are not stored."""
    write_inputs(tmp_path / "in", 6)
    observer = LoadObserver()
    options = WorkerOptions(device="cpu", shard_size=6)
    annotate(replace(request_of(tmp_path / "in", tmp_path / "out", options=options), observer=observer), Tally())
    (part,) = (tmp_path / "out").glob("_sam3/runs/*/instances/*/*")
    stored = len(gzip.decompress(part.read_bytes()))
    assert abs(observer.resident_bytes[-1] - stored * 5 / 6) < 10
    assert observer.load().resident_bytes == 0


@pytest.mark.timeout(30)
def test_rows_never_keep_images_from_being_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget holds one image and no row besides it."""
    monkeypatch.setattr("job.worker.worker._ROW_SHARE", 1.0)
    monkeypatch.setattr("job.worker.factory._MASK_LOGITS_BYTES", 1000)
    options = WorkerOptions(device="cpu", shard_size=20, memory_budget=9000)
    run, held = annotate_with_rows(tmp_path, 20, options=options)
    assert sum(map(len, rows_by_part(run))) == 20
    assert held == 0


def test_a_run_of_a_version_without_tables_is_resumed_with_a_table(tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", 2)
    request = request_of(tmp_path / "in", tmp_path / "out", run_name="one")
    open_run(request.target, request.spec, name="one", is_date_given=True, process_id="x")
    path = tmp_path / "out/_sam3/runs/one/run.json"
    fields = json.loads(path.read_text())
    assert fields.pop("instances") == "table"
    path.write_text(json.dumps(fields))
    annotate(request, Tally())
    assert len(rows_by_part(path.parent)) == 2


def test_no_rows_are_stored_on_request(tmp_path: Path) -> None:
    run, _ = annotate_with_rows(tmp_path, 3, instances="none")
    assert not (run / "instances").exists()
    stored = [row for part in run.glob("journal/*/*") for row in part.read_text().splitlines() if '"result"' in row]
    assert len(stored) == 3
    assert not any('"instances"' in row for row in stored)
