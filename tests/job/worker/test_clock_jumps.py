"""Clocks that jump by a day in both directions, between two processes and inside one."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import msgspec
import pytest

from job.errors import RunConflictError
from job.plan.plan import shard_name
from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.plan.takeover import refuse_if_others_work, supersede_older
from job.run.heartbeat import Beat
from job.run.journal import ShardJournal
from job.run.options import WorkerOptions
from job.run.run import HEARTBEAT_WATCH_S, QUIET_AFTER_END_S, Run, open_run
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from job.worker.shards import KILLS_BEFORE_SERIAL
from tests.fakes import JumpingClock, request_of, spec_of, write_ended_run
from tests.processes import results

DAY_S = 86_400.0
JUMPS = pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S], ids=["set back", "set forward"])
"""How far the files of the past are ahead of the clock of today."""


def shift(folder: Path, seconds: float) -> None:
    """Let every file be as many seconds younger."""
    for path in folder.rglob("*"):
        times = path.stat()
        os.utime(path, (times.st_atime + seconds, times.st_mtime + seconds))


def begun_run(source: Path, target: Path, name: str = "old", **changes: object) -> Run:
    """A run of another process that has written a heartbeat."""
    store = LocalStore(target, "other")
    run = open_run(store, spec_of(source, **changes), name=name, is_date_given=False, process_id="other")
    store.put(run.key("workers", "local-00000-other.json"), msgspec.json.encode(Beat(attempt="other")))
    return run


@JUMPS
def test_heartbeats_are_watched_for_70_s_at_most(source: Path, target: Path, ahead_s: float) -> None:
    run = begun_run(source, target)
    shift(target, ahead_s)
    watched: list[float] = []
    refuse_if_others_work(run.store, watched.append)
    assert sum(watched) == pytest.approx(HEARTBEAT_WATCH_S if ahead_s > 0 else 0.0)


@JUMPS
def test_last_puts_are_waited_for_for_60_s_at_most(source: Path, target: Path, ahead_s: float) -> None:
    old = begun_run(source, target)
    old.write_end(RunEnd(outcome="superseded", by="x", superseded_by="new"))
    end = target / old.key("end.json")
    new = open_run(old.store, spec_of(source, limit=3), name="new", is_date_given=False, process_id="x")
    os.utime(end, (end.stat().st_atime, end.stat().st_mtime + ahead_s))
    waited: list[float] = []
    supersede_older(new, process_id="x", sleep=waited.append)
    assert sum(waited) <= QUIET_AFTER_END_S + 1
    assert (sum(waited) >= QUIET_AFTER_END_S) == (ahead_s > 0)


@JUMPS
def test_a_new_run_ends_the_old_one(source: Path, target: Path, session: object, ahead_s: float) -> None:
    """Of a clock that was set back, the old run seems to be the younger one."""
    old = begun_run(source, target)
    shift(target, ahead_s)
    options = WorkerOptions(device="cpu", supersede=True, clock=JumpingClock())
    annotate(request_of(source, target, run_name="new", confidence_threshold=0.5, options=options), Tally())
    end = old.end()
    assert end is not None
    assert (end.outcome, end.superseded_by) == ("superseded", "new")
    with pytest.raises(RunConflictError, match="superseded by run new"):
        annotate(request_of(source, target, run_name="old"), Tally())


@JUMPS
def test_a_run_is_resumed(source: Path, target: Path, tmp_path: Path, session: object, ahead_s: float) -> None:
    annotate(request_of(source, tmp_path / "quiet"), Tally())
    annotate(request_of(source, target, limit=2), Tally())
    shift(target, ahead_s)
    annotate(request_of(source, target), Tally())
    shift(target, ahead_s)
    annotate(request_of(source, target), Tally())
    assert results(target) == results(tmp_path / "quiet")


def test_the_clock_of_the_process_jumps_during_a_run(
    source: Path, target: Path, tmp_path: Path, session: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(request_of(source, tmp_path / "quiet"), Tally())
    wall_s, jumps_s = time.time, itertools.cycle((0.0, DAY_S, -DAY_S))
    monkeypatch.setattr(time, "time", lambda: wall_s() + next(jumps_s))
    end = annotate(request_of(source, target), Tally())
    assert end is not None
    assert end.outcome == "succeeded"
    assert results(target) == results(tmp_path / "quiet")


def test_runs_of_the_future_that_have_ended_stay_as_they_are(source: Path, target: Path, session: object) -> None:
    write_ended_run(target, "old")
    shift(target, DAY_S)
    annotate(request_of(source, target, run_name="new"), Tally())
    end = Run(LocalStore(target, "x"), "old", spec_of(target)).end()
    assert end is not None
    assert end.outcome == "succeeded"


def test_an_image_that_crashed_workers_is_failed_after_its_timeout(source: Path, target: Path) -> None:
    """The rows that tell of the crashes are of tomorrow."""
    run = begun_run(source, target)
    plan = make_plan(run, Selection(run, LocalStore(source, "other")), Sizing())
    for number in range(KILLS_BEFORE_SERIAL):
        for name in plan.shard_names():
            journal = ShardJournal(run, name, f"dead{number}")
            journal.start()
            if name == shard_name(1):
                journal.intend("00001.json")
    shift(target, DAY_S)
    options = WorkerOptions(device="cpu", max_failed_fraction=0.2, image_timeout_s=0.5)
    begun_s = time.monotonic()
    end = annotate(request_of(source, target, run_name="old", options=options), Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (4, 1)
    assert time.monotonic() - begun_s < 60
