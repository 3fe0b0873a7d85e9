"""Faults of the machine in a run: a process that is stopped or killed for its memory, two commands on one output."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from job.run.run import find_named, list_runs
from job.storage.local.store import LocalStore
from tests.cgroups import memory_cgroup
from tests.e2e.test_local_workers import at_work, done, workers_of
from tests.processes import DATE, annotate, link_scenes, results, running, wait_until

COUNT = 40


@pytest.fixture(scope="module")
def source(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_scenes(scenes, tmp_path_factory.mktemp("many") / "in", COUNT)


@pytest.fixture(scope="module")
def quiet(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return outputs_of(source, tmp_path_factory.mktemp("quiet"))


def outputs_of(source: Path, folder: Path, *flags: str) -> dict[str, bytes]:
    annotate(source, folder / "out", "--annotation_date", DATE, "--threads", "1", *flags).check_returncode()
    return results(folder / "out")


def command(source: Path, target: Path, *flags: str) -> list[str]:
    given = ["--input_top_dir", str(source), "--out_top_dir", str(target), "--annotation_date", DATE, "--threads", "1"]
    return ["-m", "job", *given, *flags]


@pytest.mark.parametrize(
    "stopped_s",
    [6.0, pytest.param(200.0, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
    ids=["longer than an image may take", "minutes"],
)
def test_a_process_that_was_stopped_goes_on(
    source: Path, quiet: dict[str, bytes], tmp_path: Path, stopped_s: float
) -> None:
    """SIGSTOP, as of a frozen cgroup or a debugger: its time counts for no image."""
    target = tmp_path / "out"
    with running(*command(source, target, "--image_timeout_s", "3")) as process:
        wait_until(lambda: done(target) >= 3, 60)
        process.send_signal(signal.SIGSTOP)
        time.sleep(stopped_s)
        stood = done(target)
        time.sleep(0.5)
        assert done(target) == stood < COUNT, "it was stopped in the middle"
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert results(target) == quiet


def test_a_worker_that_the_kernel_kills_for_its_memory_is_replaced(
    source: Path, quiet: dict[str, bytes], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    with at_work(source, target, "--journal_interval_s", "0.5") as process, memory_cgroup(1 << 20) as cgroup:
        wait_until(lambda: done(target) >= 3, 60)
        killed = workers_of(process)[0]
        (cgroup / "cgroup.procs").write_text(str(killed), encoding="ascii")
        wait_until(lambda: killed not in workers_of(process), 60)
        _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert "SIGKILL" in stderr or "signal 9" in stderr, stderr
    assert results(target) == quiet


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_second_command_with_other_options_ends_the_first_only_if_it_is_told_to(source: Path, tmp_path: Path) -> None:
    target, slow = tmp_path / "out", (str(Path(__file__).with_name("slowed.py")),)
    given = command(source, target)[2:]
    with running(*slow, *given, "--run", "first") as first:
        wait_until(lambda: done(target) >= 3, 60)
        refused = annotate(source, target, "--annotation_date", DATE, "--run", "second", "--prompts", "car")
        assert refused.returncode == 78, refused.stderr
        assert "run first of" in refused.stderr
        assert "is still running with other options" in refused.stderr
        assert first.poll() is None
        second = annotate(source, target, *given[4:], "--run", "second", "--prompts", "car", "--supersede")
        assert second.returncode == 0, second.stderr
        _, stderr = first.communicate(timeout=100)
        assert first.returncode == 78, stderr
        assert "superseded by run second" in stderr
    store = LocalStore(target, "reader")
    ends = {name: find_named(store, name).end() for name in list_runs(store)}
    assert {name: end.outcome if end else None for name, end in ends.items()} == {
        "first": "superseded", "second": "succeeded",
    }  # fmt: skip
    assert annotate(source, target, "--run", "second", "--prompts", "car", "--annotation_date", DATE).returncode == 0
    whole = (outputs_of(source, tmp_path / "cars", "--prompts", "car"), outputs_of(source, tmp_path / "all"))
    found = results(target)
    assert found.keys() == whole[0].keys()
    for key in (name for name in found if name.endswith(".json")):
        pair = (key, key.replace(".json", ".npz"))
        assert any(all(found[one] == other[one] for one in pair) for other in whole), f"{key} is torn"
    kept = sum(found[key] == whole[1][key] for key in found if key.endswith(".json"))
    sys.stdout.write(f"{kept} of {COUNT} were done by the first run\n")
    assert 0 < kept < COUNT
