"""The output of `progress`, as fields and on a terminal; it changes nothing in the store."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from job.cli.main import run as run_cli
from job.errors import ObjectRefusedError, RunConflictError
from job.plan.plan import shard_name
from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.run.heartbeat import Beat
from job.run.run import Run, open_run
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.tools.progress import ALIVE_S, PoolProgress, RunProgress, read_progress
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of, spec_of, write_inputs


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten inputs in five shards, nothing done."""
    write_inputs(tmp_path / "in", 10)
    store = LocalStore(tmp_path / "out", "x")
    run = open_run(store, spec_of(tmp_path / "in", limit=9), name="r", is_date_given=False, process_id="x")
    make_plan(run, Selection(run, LocalStore(tmp_path / "in", "x")), Sizing(shard_size=2))
    store.close()
    return run


def beat(run: Run, worker_id: str, process_id: str, *, age_s: float = 0.0, **fields: object) -> None:
    key = run.key("workers", f"{worker_id}-{process_id}.json")
    run.store.put(key, msgspec.json.encode(Beat(attempt=process_id, **fields)))  # type: ignore[arg-type]
    beaten_s = time.time() - age_s
    os.utime(Path(run.store.url, key), (beaten_s, beaten_s))


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    ("activity", "age_s", "pool"),
    [
        pytest.param("working", ALIVE_S - 10, PoolProgress(alive=1, images_per_s=2.0), id="beats"),
        pytest.param("working", ALIVE_S + 10, PoolProgress(silent=1), id="has stopped beating"),
        pytest.param("left", 0, PoolProgress(left=1), id="has left"),
        pytest.param("left", 9 * ALIVE_S, PoolProgress(left=1), id="has left long ago"),
    ],
)
def test_who_is_alive(run: Run, activity: str, age_s: float, pool: PoolProgress) -> None:
    beat(run, "gpu-a-00003", "x", age_s=age_s, activity=activity, images_per_s=2.0)
    found = read_progress(run.store)
    assert found.pools == {"gpu-a": pool}
    assert found.state == ("working" if pool.alive else "interrupted" if pool.left else "stalled")
    assert found.images_per_s == pool.images_per_s


def test_who_took_the_place_of_a_dead_process_counts_and_the_dead_ones_images_too(run: Run) -> None:
    beat(run, "gpu-00000", "dead", age_s=500, activity="working", annotated=3, images_per_s=9.0)
    beat(run, "gpu-00000", "alive", activity="working", annotated=2, failed=1, images_per_s=0.5)
    found = read_progress(run.store)
    assert found.pools == {"gpu": PoolProgress(alive=1, images_per_s=0.5)}
    assert (found.planned, found.done, found.failed, found.left, found.eta_s) == (9, 6, 1, 3, 6.0)


def test_before_there_is_a_plan(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "out", "x")
    run = open_run(store, spec_of(tmp_path), name="r", is_date_given=False, process_id="x")
    beat(run, "local-00000", "x", activity="planning")
    assert read_progress(store).state == "planning"
    beat(run, "local-00000", "x", activity="left")
    assert read_progress(store).state == "interrupted"
    beat(run, "local-00000", "x", age_s=500, activity="planning")
    assert read_progress(store).state == "stalled"


def test_a_run_that_is_only_planned(run: Run) -> None:
    assert read_progress(run.store).state == "planned"
    beat(run, "plan-00000", "x", activity="left")
    assert read_progress(run.store).state == "planned"
    beat(run, "local-00000", "y", activity="left")
    assert read_progress(run.store).state == "interrupted"


def test_a_process_that_exited_in_order_after_a_killed_one(run: Run) -> None:
    beat(run, "local-00000", "killed", age_s=500, activity="working")
    beat(run, "local-00000", "resumed", activity="left")
    assert read_progress(run.store).state == "interrupted"
    beat(run, "local-00001", "killed too", age_s=500, activity="working")
    assert read_progress(run.store).state == "stalled"


def test_the_rate_is_that_of_completed_shards_until_a_worker_reports_one(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    beat(run, "local-00000", "x", activity="working")
    assert run_cli(["progress", run.store.url]) == 0
    assert "Rate           not known yet\n" in capsys.readouterr().out
    run.store.put(run.key("done", f"{shard_name(0)}.json"), b"{}")
    assert read_progress(run.store).images_per_s == pytest.approx(2 / ALIVE_S, rel=1e-3)
    assert run_cli(["progress", run.store.url]) == 0
    assert "Rate           0.022 images/s, " in capsys.readouterr().out
    beat(run, "local-00000", "x", activity="working", images_per_s=0.0031)
    assert run_cli(["progress", run.store.url]) == 0
    assert "Rate           0.0031 images/s, " in capsys.readouterr().out


@pytest.mark.parametrize("outcome", ["succeeded", "too_many_failed", "superseded"])
def test_an_ended_run_shows_its_totals_without_markers_and_heartbeats(run: Run, outcome: str) -> None:
    end = msgspec.convert({"outcome": outcome, "by": "x", "annotated": 8, "failed": 1, "inputs_listed": 10}, RunEnd)
    run.write_end(end)
    found = read_progress(run.store)
    assert found.state == outcome
    assert (found.done, found.failed) == ((0, 0) if outcome == "superseded" else (9, 1))


def test_it_changes_nothing_and_needs_no_write_permission(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beat(run, "local-00000", "x", activity="working")
    run.store.close()
    before = tree(Path(run.store.url))
    assert run_cli(["progress", run.store.url]) == 0
    assert tree(Path(run.store.url)) == before

    def refuse(self: LocalStore, data: bytes) -> Path:
        raise ObjectRefusedError("permission denied")

    monkeypatch.setattr(LocalStore, "_write_scratch", refuse)
    assert run_cli(["progress", run.store.url]) == 0
    assert "Run r: working" in capsys.readouterr().out


def test_a_heartbeat_that_is_removed_meanwhile_is_skipped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    beat(run, "gpu-00000", "a", activity="working")
    beat(run, "gpu-00001", "b", activity="working")
    listed = list(run.store.list(run.key("workers")))
    run.store.delete(listed[0].key)
    monkeypatch.setattr(LocalStore, "list", lambda self, prefix="", skip=None, after="": iter(listed))
    assert read_progress(run.store).pools["gpu"].alive == 1


def test_a_heartbeat_of_another_version_is_one_sentence(run: Run) -> None:
    run.store.put(run.key("workers", "gpu-00000-a.json"), b'{"attempt": "a", "new": 1}')
    with pytest.raises(RunConflictError, match="was written by an incompatible version"):
        read_progress(run.store)


def test_messages_cannot_move_the_cursor(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    beat(run, "local-00000", "x", activity="working", last_error="\x1b[2J\nred")
    assert run_cli(["progress", run.store.url]) == 0
    assert "Error          \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}red" in capsys.readouterr().out


LOOKS_OFTEN = "from job.cli import progress as view; view._INTERVAL_S = 0.2; from job.cli.main import main; main()"


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        command = [sys.executable, "-c", LOOKS_OFTEN, "progress", *arguments]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.shown = ""

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline_s = time.monotonic() + 60
        while self.shown.count(text) < times:
            assert time.monotonic() < deadline_s, self.shown
            if select.select([self._master], [], [], 0.2)[0]:
                self.shown += os.read(self._master, 65536).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(run: Run) -> Iterator[Terminal]:
    beat(run, "local-00000", "x", activity="working", annotated=1)
    terminal = Terminal(run.store.url)
    yield terminal
    terminal.close()


def test_on_a_terminal_it_is_repainted_until_the_run_ends(run: Run, terminal: Terminal) -> None:
    terminal.wait_for("Done           1 (11.1 %)", times=2)
    assert terminal.shown.count("\x1b[H\x1b[2J") >= 2
    beat(run, "local-00000", "x", activity="working", annotated=2)
    terminal.wait_for("Done           2 (22.2 %)")
    run.write_end(RunEnd(outcome="succeeded", by="x", annotated=9))
    terminal.wait_for("Run r: succeeded")
    assert terminal.process.wait(30) == 0


def test_the_view_ends_when_the_run_is_interrupted(run: Run, terminal: Terminal) -> None:
    terminal.wait_for("Run r: working")
    beat(run, "local-00000", "x", activity="left", annotated=1)
    terminal.wait_for("Run r: interrupted; rerun the same command to resume")
    assert terminal.process.wait(30) == 0


def test_ctrl_c_ends_the_view_with_zero(terminal: Terminal) -> None:
    terminal.wait_for("Run r: working")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(30) == 0
    assert "Traceback" not in terminal.shown


def test_elsewhere_it_is_one_report_without_control_characters(
    tmp_path: Path, fake_session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path / "in", 3)
    annotate(request_of(tmp_path / "in", tmp_path / "out"), Tally())
    assert run_cli(["progress", str(tmp_path / "out")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert run_cli(["progress", str(tmp_path / "out"), "-o", "json"]) == 0
    shown = msgspec.json.decode(capsys.readouterr().out, type=RunProgress)
    assert (shown.state, shown.done, shown.left) == ("succeeded", 3, 0)
