"""The output of `progress`, `clean`, `doctor` and `plan`; they change nothing else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from job.cli.main import run as run_cli
from job.errors import UsageError
from job.plan.plan import iter_shards, read_plan, shard_name
from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.run.heartbeat import Beat
from job.run.run import Run, find_named, newest_run, open_run
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.tools.progress import read_progress
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of, spec_of, write_inputs
from tests.processes import results


def begun_run(source: Path, target: Path, shard_size: int = 2) -> Run:
    store = LocalStore(target, "x")
    run = open_run(store, spec_of(source), name="r", is_date_given=False, process_id="x")
    make_plan(run, Selection(run, LocalStore(source, "x")), Sizing(shard_size=shard_size))
    return run


def beat(run: Run, worker_id: str, process_id: str, **fields: object) -> None:
    data = msgspec.json.encode(Beat(attempt=process_id, **fields))  # type: ignore[arg-type]
    run.store.put(run.key("workers", f"{worker_id}-{process_id}.json"), data)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_progress_of_a_run_under_way(tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", 10)
    run = begun_run(tmp_path / "in", tmp_path / "out")
    run.store.put(run.key("done", f"{shard_name(0)}.json"), b"{}")
    beat(run, "gpu-00000", "a", activity="working", annotated=3, images_per_s=2.0)
    beat(run, "gpu-00000", "b", activity="working", annotated=1, images_per_s=0.5, last_error="no image")
    beat(run, "cpu-00001", "c", activity="left", annotated=1, failed=1)
    found = read_progress(run.store)
    assert (found.run, found.state, found.planned, found.done, found.failed, found.left) == (
        "r",
        "working",
        10,
        6,
        1,
        4,
    )
    assert found.images_per_s == 2.5
    assert found.eta_s == 1.6
    assert (found.pools["gpu"].alive, found.pools["cpu"].left) == (1, 1)
    assert found.last_errors == ("no image",)


def test_progress_needs_no_request_per_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path / "in", 30)
    run = begun_run(tmp_path / "in", tmp_path / "out", shard_size=1)
    for shard in range(20):
        run.store.put(run.key("done", f"{shard_name(shard)}.json"), b"{}")
    read: list[str] = []
    original = LocalStore.read

    def counted(self: LocalStore, key: str) -> bytes:
        read.append(key)
        return original(self, key)

    monkeypatch.setattr(LocalStore, "read", counted)
    found = read_progress(run.store, "r")
    assert (found.done, found.state) == (20, "stalled")
    assert len(read) <= 4


def test_progress_of_a_run_that_has_ended(
    tmp_path: Path, fake_session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path / "in", 5)
    annotate(request_of(tmp_path / "in", tmp_path / "out"), Tally())
    before = everything(tmp_path)
    assert run_cli(["progress", str(tmp_path / "out"), "-o", "json"]) == 0
    shown = msgspec.json.decode(capsys.readouterr().out)
    assert (shown["state"], shown["done"], shown["left"], shown["eta_s"]) == ("succeeded", 5, 0, None)
    assert run_cli(["progress", str(tmp_path / "out")]) == 0
    assert "Done           5 (100.0 %), failed 0, left 0" in capsys.readouterr().out
    assert everything(tmp_path) == before


def test_progress_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="not the output of any run"):
        read_progress(LocalStore(tmp_path, "x"))
    begun = begun_run(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match=r"no run 'other' in .*; the newest are: r"):
        read_progress(begun.store, "other")


def test_clean_removes_what_ended_runs_no_longer_need(
    tmp_path: Path, fake_session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    write_inputs(source, 5)
    annotate(request_of(source, target, run_name="ended"), Tally())
    outputs = results(target)
    store = LocalStore(target, "x")
    live = open_run(store, spec_of(source, limit=1), name="live", is_date_given=False, process_id="x")
    make_plan(live, Selection(live, LocalStore(source, "x")), Sizing())
    assert run_cli(["clean", str(target)]) == 2
    assert "give --yes" in capsys.readouterr().err
    assert run_cli(["clean", str(target), "--yes"]) == 0
    said = capsys.readouterr().out
    assert "shards of the plan of run ended: 6 objects" in said
    assert "live" not in said
    ended = find_named(store, "ended")
    assert not list(store.list(ended.key("workers")))
    assert read_plan(ended) is not None
    assert list(store.list(ended.key("journal")))
    assert [item.key for item in store.list(live.key()) if "/plan-" in item.key] or read_plan(live) is not None
    assert results(target) == outputs
    assert run_cli(["audit", str(target), "--deep"]) == 0
    assert run_cli(["clean", str(target), "--yes"]) == 0
    assert "Nothing to remove" in capsys.readouterr().out.splitlines()[-1]


def test_doctor_checks_everything_and_leaves_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / "out"), "--device", "cpu"]
    assert run_cli(["doctor", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"✓ {name}" for name in ("output", "exclusive create", "file system", "clock", "input", "model", "one image")
    ]
    assert "16 threads created 8 keys: one winner each" in lines[1]
    assert not everything(tmp_path / "out")


def test_doctor_finds_a_store_whose_create_is_not_exclusive(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(self: LocalStore, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True

    monkeypatch.setattr(LocalStore, "create", careless)
    flags = ["--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / "out"), "--device", "cpu"]
    assert run_cli(["doctor", *flags]) == 78
    said = capsys.readouterr()
    assert "✗ exclusive create" in said.out
    assert "lets several threads create the same object" in said.err


def test_plan_is_written_once_and_annotate_processes_it(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    flags = ["--input_top_dir", str(scenes), "--out_top_dir", str(target), "--run", "night"]
    assert run_cli(["plan", *flags, "--num_indexes", "2", "--shard_size", "3", "--limit", "7"]) == 0
    assert capsys.readouterr().out == "night\n"
    run = newest_run(LocalStore(target, "x"))
    plan = read_plan(run)
    assert plan is not None
    assert [shard.inputs for shard in iter_shards(run, plan)] == [3, 3, 1]
    again = [*flags, "--limit", "7"]
    assert run_cli(["plan", *again]) == 0
    for index, done in ((1, 4), (0, 7)):
        assert run_cli(["annotate", *again, "--index", str(index), "--num_indexes", "2", "--device", "cpu"]) == 0
        assert len(list(target.rglob("*.npz"))) == done
    assert run_cli(["progress", str(target), "-o", "json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out.splitlines()[-1])["state"] == "succeeded"
    assert run_cli(["annotate", *flags, "--limit", "8", "--device", "cpu"]) == 78, "other options under the same name"
