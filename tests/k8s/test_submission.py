"""Submission: next pass, work left and plan."""

from __future__ import annotations

import errno
import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

from job.errors import RunConflictError, UsageError
from job.plan import takeover
from job.plan.plan import PlannedInput, iter_shards, read_plan, read_shard
from job.run.run import find_named
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from k8s.release import Release
from k8s.submission import Chart, StorageOptions, find_work, has_no_volumes, make_plan, next_pass
from tests.fakes import write_ended_run, write_inputs
from tests.k8s.objects import job, release

HERE = StorageOptions()


def release_of(source: Path, target: Path, run: str = "night-1a2b3c4d", *flags: str) -> Release:
    """A release whose workers were told of these folders, as URLs."""
    arguments = [
        "annotate", f"--input_top_dir=file://{source}", f"--out_top_dir=file://{target}", f"--run={run}", *flags,
    ]  # fmt: skip
    return release(cpu=job("cpu", args=arguments))


def test_an_unfinished_run_is_resumed(tmp_path: Path) -> None:
    assert next_pass(release_of(tmp_path, tmp_path), HERE) is None


@pytest.mark.parametrize(
    ("run", "ended", "following"),
    [
        ("night-1a2b3c4d", ["night-1a2b3c4d"], "night-2"),
        ("night-1a2b3c4d", ["night-1a2b3c4d", "night-2-1a2b3c4d"], "night-3"),
        ("night-9-1a2b3c4d", ["night-1a2b3c4d", "night-9-1a2b3c4d"], "night-10"),
        ("2026-01-31-1a2b3c4d", ["2026-01-31-1a2b3c4d"], "2026-01-31-2"),
        ("2026-01-31-2-1a2b3c4d", ["2026-01-31-1a2b3c4d", "2026-01-31-2-1a2b3c4d"], "2026-01-31-3"),
        ("x-1a2b3c4d", ["x-1a2b3c4d", "x-2-99999999"], "x-2"),
    ],
)
def test_a_run_that_has_ended_is_followed_by_the_next(
    tmp_path: Path, run: str, ended: list[str], following: str
) -> None:
    for name in ended:
        write_ended_run(tmp_path, name)
    assert next_pass(release_of(tmp_path, tmp_path, run), HERE) == following


def test_a_superseded_run_has_ended(tmp_path: Path) -> None:
    write_ended_run(tmp_path, "night-1a2b3c4d", RunEnd(outcome="superseded", by="x", superseded_by="other"))
    assert next_pass(release_of(tmp_path, tmp_path), HERE) == "night-2"


def test_counting_writes_nothing_and_planning_is_idempotent(scenes: Path, tmp_path: Path) -> None:
    submitted = release_of(scenes, tmp_path / "out", "night-1a2b3c4d", "--supersede", "--limit=5", "--device=cuda")
    assert find_work(submitted, HERE).images == 5
    assert not (tmp_path / "out").exists()

    make_plan(submitted, HERE, num_indexes=2)
    plan = read_plan(find_named(LocalStore(tmp_path / "out", "tester"), "night-1a2b3c4d"))
    assert plan is not None
    assert plan.inputs_planned == 5
    work = find_work(submitted, HERE)
    assert (work.images, work.is_planned) == (5, True)
    make_plan(submitted, HERE, num_indexes=2)
    assert read_plan(find_named(LocalStore(tmp_path / "out", "tester"), "night-1a2b3c4d")) == plan


def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are listed from the root on, from now on."""
    listed: list[str] = []
    original = LocalStore.list

    def noted(self: LocalStore, prefix: str = "", *arguments: Any, **more: Any) -> Any:
        if not prefix:
            listed.append(Path(self.url).name)
        return original(self, prefix, *arguments, **more)

    monkeypatch.setattr(LocalStore, "list", noted)
    return listed


def lines_of(target: Path, run_name: str) -> list[PlannedInput]:
    run = find_named(LocalStore(target, "tester"), run_name)
    plan = read_plan(run)
    assert plan is not None
    return [planned for shard in iter_shards(run, plan) for planned in read_shard(run, plan, shard)]


def test_what_was_counted_is_planned_without_another_listing(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan(release_of(scenes, tmp_path / "other"), HERE, num_indexes=2)
    submitted = release_of(scenes, tmp_path / "out")
    listed = listings(monkeypatch)
    work = find_work(submitted, HERE, keeps_listing=True)
    assert work.images == 10
    assert not (tmp_path / "out").exists()
    make_plan(submitted, HERE, 2, work.listed)
    assert sorted(listed) == sorted([scenes.name, "out"]), "each once"
    assert lines_of(tmp_path / "out", submitted.run) == lines_of(tmp_path / "other", submitted.run)


def test_after_an_older_run_what_was_counted_is_listed_again(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older run may have written outputs since they were counted."""
    monkeypatch.setattr(takeover, "QUIET_AFTER_END_S", 0.0)
    make_plan(release_of(scenes, tmp_path / "out", "older-1a2b3c4d"), HERE, num_indexes=1)
    submitted = release_of(scenes, tmp_path / "out", "night-1a2b3c4d", "--supersede")
    work = find_work(submitted, HERE, keeps_listing=True)
    shutil.copy(next(scenes.rglob("*.json")), scenes / "late.json")
    try:
        make_plan(submitted, HERE, 1, work.listed)
        assert work.images == 10
        assert "late.json" in {planned.json for planned in lines_of(tmp_path / "out", submitted.run)}
    finally:
        (scenes / "late.json").unlink()


def test_a_listing_that_does_not_fit_the_disk_is_made_again(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", full)
    submitted = release_of(scenes, tmp_path / "out")
    work = find_work(submitted, HERE, keeps_listing=True)
    assert work.images == 10
    assert "No space left on device: the input is listed again for the plan" in caplog.text
    make_plan(submitted, HERE, 1, work.listed)
    assert len(lines_of(tmp_path / "out", submitted.run)) == 10


REACHABLE = ["--input_top_dir=s3://pictures/in", "--out_top_dir=s3://pictures/out", "--model_cache=/cache/models"]


def test_urls_can_be_read_from_here() -> None:
    secrets = ["--input_storage_options=/secrets/input/storage_options.json", "--include=/volumes/*"]
    assert has_no_volumes(release(cpu=job("cpu", args=["annotate", *REACHABLE, *secrets, "--model=s3://models/sam3"])))


@pytest.mark.parametrize(
    "argument",
    [
        "--input_top_dir=/volumes/pictures/in",
        "--out_top_dir=/mnt/results",
        "--model=/volumes/models/sam3",
        "--input_list=/mnt/list.csv",
    ],
)
def test_paths_lead_into_volumes_that_only_pods_can_read(argument: str) -> None:
    assert not has_no_volumes(release(cpu=job("cpu", args=["annotate", *REACHABLE, argument])))


def test_computed_values_come_after_those_given() -> None:
    chart = Chart("night", "./chart", ("--values=a.yaml",)).with_values({"pools.gpu.completions": 8, "run.name": "x"})
    assert chart.arguments == (
        "--values=a.yaml", "--set-json", "pools.gpu.completions=8", "--set-json", 'run.name="x"',
    )  # fmt: skip


def test_what_is_done_is_not_counted(quiet_run: Path, scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(quiet_run, tmp_path / "out", ignore=shutil.ignore_patterns("_sam3"))
    next((tmp_path / "out").rglob("*.npz")).unlink()
    assert find_work(release_of(scenes, tmp_path / "out"), HERE).images == 1


def test_the_plan_has_shards_for_every_index(tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", 40)
    submitted = release_of(tmp_path / "in", tmp_path / "out")
    make_plan(submitted, HERE, num_indexes=5)
    plan = read_plan(find_named(LocalStore(tmp_path / "out", "tester"), submitted.run))
    assert plan is not None
    assert plan.shards_planned == 40
    beats = list(LocalStore(tmp_path / "out", "tester").list(f"_sam3/runs/{submitted.run}/workers"))
    assert [beat.key.rpartition("/")[2].startswith("plan-00000-") for beat in beats] == [True]


def test_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such input folder"):
        find_work(release_of(tmp_path / "in", tmp_path / "out"), HERE)


def test_a_run_of_that_name_with_other_options(scenes: Path, tmp_path: Path) -> None:
    make_plan(release_of(scenes, tmp_path / "out"), HERE, num_indexes=1)
    with pytest.raises(RunConflictError, match="image_mode: the run has 'copy', asked for is 'none'"):
        make_plan(release_of(scenes, tmp_path / "out", "night-1a2b3c4d", "--image_mode=none"), HERE, num_indexes=1)


def test_options_of_this_machine_replace_the_secrets_of_the_pods(scenes: Path, tmp_path: Path) -> None:
    secret = "--input_storage_options=/secrets/input/storage_options.json"
    submitted = release_of(scenes, tmp_path / "out", "night-1a2b3c4d", secret)
    assert find_work(submitted, HERE).images == 10
    with pytest.raises(UsageError, match="storage options /nowhere"):
        find_work(submitted, StorageOptions(source="/nowhere.json"))
