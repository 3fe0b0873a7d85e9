"""A worker whose store or shard fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from job.errors import InterruptedRunError, ObjectMissingError, UnreadableObjectError
from job.run.options import WorkerOptions
from job.storage.local.store import LocalStore
from job.storage.store import Fetched
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
