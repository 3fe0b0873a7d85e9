"""The files that `clean` removes, those that it keeps for other processes, and its confirmation."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from job.cli.main import run as run_cli
from job.plan.plan import read_plan
from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.plan.takeover import supersede_older
from job.run.heartbeat import Beat
from job.run.journal import ShardJournal
from job.run.run import Run, open_run
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.tools.cleanup import INACTIVE_AFTER_S, STALE_S, find_leftovers
from job.worker.runner import annotate
from tests.fakes import request_of, spec_of, write_inputs

pytestmark = pytest.mark.usefixtures("fake_session")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "in", 5)
    return tmp_path / "in"


@pytest.fixture
def target(source: Path, tmp_path: Path) -> Path:
    """The output of a run that has ended."""
    request = request_of(source, tmp_path / "out", run_name="first")
    annotate(request, Tally())
    request.target.close()
    return tmp_path / "out"


def begun(source: Path, target: Path, name: str, *, is_planned: bool = True, **changes: object) -> Run:
    """An unfinished run with a killed worker."""
    store = LocalStore(target, "x")
    run = open_run(store, spec_of(source, **changes), name=name, is_date_given=False, process_id="x")
    if is_planned:
        for name in make_plan(run, Selection(run, LocalStore(source, "x")), Sizing()).shard_names():
            ShardJournal(run, name, "killed").start()
    store.put(run.key("workers", "gpu-00000-killed.json"), msgspec.json.encode(Beat(attempt="killed")))
    store.close()
    return run


def superseded(run: Run, by: Run, *, age_s: float = 2 * INACTIVE_AFTER_S) -> None:
    run.write_end(RunEnd(outcome="superseded", by="x", superseded_by=by.name))
    ended_s = time.time() - age_s
    os.utime(Path(run.store.url, run.key("end.json")), (ended_s, ended_s))


def cleaned_runs(target: Path) -> set[str]:
    leftovers = [leftover for leftover in find_leftovers(LocalStore(target, "x")) if leftover.keys]
    return {leftover.what.rpartition(" ")[2] for leftover in leftovers}


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_shards_and_heartbeats_are_removed_and_records_stay(target: Path) -> None:
    before = tree(target)
    assert run_cli(["clean", str(target), "--yes"]) == 0
    gone = {str(path.relative_to(target / "_sam3/runs/first")) for path in before if not path.exists()}
    assert {name.partition("/")[0].partition("-")[0] for name in gone} == {"plan", "workers"}
    assert "plan.json" not in gone
    assert not list(target.glob("_sam3/runs/first/plan-*")), "no empty folder is left"
    assert run_cli(["clean", str(target), "--yes"]) == 0
    assert run_cli(["audit", str(target), "--deep", "--log_level", "ERROR"]) == 0
    assert run_cli(["progress", str(target)]) == 0


def test_parts_of_the_instance_table_that_no_row_names_are_removed(source: Path, target: Path) -> None:
    """A process that was killed between a part of the table and the part of the journal leaves the first."""
    folders = sorted((target / "_sam3/runs/first/instances").iterdir())
    named = sorted(part for folder in folders for part in folder.iterdir())
    assert len(named) == 5
    unused = [
        folders[0] / "0000-1.jsonl.gz",
        folders[3] / "ffff-12.jsonl.gz",
        folders[4].parent / "9/killed-1.jsonl.gz",
    ]
    unused[2].parent.mkdir()
    for part in unused:
        shutil.copy(named[0], part)
    shutil.copytree(target / "_sam3/runs/first/instances", target / "_sam3/runs/live/instances")
    begun(source, target, "live", override=True)
    assert run_cli(["clean", str(target), "--yes"]) == 0
    assert sorted((target / "_sam3/runs/first/instances").glob("*/*")) == named
    assert not unused[2].parent.exists()
    assert len(list((target / "_sam3/runs/live/instances").glob("*/*"))) == 8, "a worker of it may be alive"


def test_a_run_without_an_end_is_never_touched(source: Path, target: Path) -> None:
    begun(source, target, "live", override=True)
    assert cleaned_runs(target) == {"first"}


def test_shards_stay_until_the_successor_has_a_plan(source: Path, target: Path) -> None:
    """The planner that superseded the run died before it wrote a plan: the next one reads the shards again."""
    old = begun(source, target, "old", override=True)
    heir = begun(source, target, "heir", is_planned=False, limit=3)
    superseded(old, heir)
    assert cleaned_runs(target) == {"first"}
    assert run_cli(["clean", str(target), "--yes"]) == 0
    assert len(supersede_older(heir, process_id="y", sleep=lambda seconds: None)) == 5
    make_plan(heir, Selection(heir, LocalStore(source, "x")), Sizing())
    assert cleaned_runs(target) == {"old"}


def test_shards_stay_until_a_later_successor_has_a_plan(source: Path, target: Path) -> None:
    old, middle = begun(source, target, "old", override=True), begun(source, target, "mid", is_planned=False, limit=3)
    superseded(old, middle)
    last = begun(source, target, "last", is_planned=False, limit=4)
    superseded(middle, last)
    assert cleaned_runs(target) == {"first"}
    make_plan(last, Selection(last, LocalStore(source, "x")), Sizing())
    assert cleaned_runs(target) == {"first", "old", "mid"}


def test_heartbeats_stay_while_a_worker_may_be_alive(source: Path, target: Path) -> None:
    """The next run waits for the last puts of workers that have not left; it finds them by their heartbeats."""
    old, heir = begun(source, target, "old", override=True), begun(source, target, "heir", limit=3)
    superseded(old, heir, age_s=30)
    assert cleaned_runs(target) == {"first"}
    superseded_again_s = time.time() - 2 * INACTIVE_AFTER_S
    os.utime(target / "_sam3/runs/old/end.json", (superseded_again_s, superseded_again_s))
    assert cleaned_runs(target) == {"first", "old"}


def test_a_deleted_successor_does_not_keep_shards(source: Path, target: Path) -> None:
    old = begun(source, target, "old", override=True)
    old.write_end(RunEnd(outcome="superseded", by="x", superseded_by="deleted"))
    os.utime(target / "_sam3/runs/old/end.json", (1, 1))
    assert cleaned_runs(target) == {"first", "old"}


def test_temporary_files_are_removed_after_a_day(target: Path) -> None:
    for name, age_s in (("dead", STALE_S + 60), ("alive", STALE_S - 600)):
        path = target / "_sam3/tmp" / name / "1"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345")
        os.utime(path, (time.time() - age_s,) * 2)
    assert run_cli(["clean", str(target), "--yes"]) == 0
    assert [path.name for path in (target / "_sam3/tmp").iterdir()] == ["alive"]


def test_without_a_terminal_clean_requires_yes(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(target)
    assert run_cli(["clean", str(target)]) == 2
    said = capsys.readouterr()
    assert "shards of the plan of run first: 6 objects" in said.out
    assert "give --yes" in said.err
    assert tree(target) == before


@pytest.mark.parametrize(("answer", "is_removed"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_clean_asks_for_confirmation(target: Path, answer: str, is_removed: bool) -> None:
    master, slave = pty.openpty()
    os.write(master, f"{answer}\n".encode())
    command = [sys.executable, "-m", "job", "clean", str(target)]
    completed = subprocess.run(command, stdin=slave, capture_output=True, text=True, timeout=60, check=True)
    os.close(master)
    os.close(slave)
    assert "Remove these?" in completed.stdout
    assert bool(list(target.glob("_sam3/runs/first/plan-*"))) != is_removed


def test_an_output_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["clean", str(tmp_path), "--yes"]) == 0
    assert "Nothing to remove" in capsys.readouterr().out
    assert tree(tmp_path) == []


def test_a_cleaned_run_keeps_its_results(source: Path, target: Path) -> None:
    assert run_cli(["clean", str(target), "--yes"]) == 0
    run = Run(LocalStore(target, "x"), "first", spec_of(source))
    plan = read_plan(run)
    assert plan is not None
    assert plan.inputs_planned == 5
    assert annotate(request_of(source, target, run_name="first"), Tally()) is not None
