"""`--workers`: the supervisor restarts dead workers, and no worker survives the supervisor."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import DATE, annotate, link_scenes, results, wait_until

COUNT = 60


@pytest.fixture(scope="module")
def source(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_scenes(scenes, tmp_path_factory.mktemp("many") / "in", COUNT)


@pytest.fixture(scope="module")
def quiet(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    target = tmp_path_factory.mktemp("quiet") / "out"
    annotate(source, target, "--annotation_date", DATE, "--threads", "1").check_returncode()
    return results(target)


@contextmanager
def at_work(source: Path, target: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "job", "--input_top_dir", str(source), "--out_top_dir", str(target)]
    command += ["--annotation_date", DATE, "--workers", "2", "--threads", "2", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the workers: children that were spawned for work, not the resource tracker."""
    task = Path(f"/proc/{process.pid}/task")
    children = [int(pid) for path in task.glob("*/children") for pid in path.read_text().split()]
    return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def done(target: Path) -> int:
    return len(list(target.glob("*.json")))


def test_two_workers_give_the_bytes_of_one(source: Path, tmp_path: Path, quiet: dict[str, bytes]) -> None:
    target = tmp_path / "out"
    with at_work(source, target) as process:
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert results(target) == quiet
    assert "Successfully processed: 60" in stderr
    beats = {path.name.rpartition("-")[0] for path in target.rglob("workers/*.json")}
    assert beats == {"local-00000", "local-00000.0", "local-00000.1"}


def test_a_worker_that_loads_later_gets_its_share_of_few_images(scenes: Path, tmp_path: Path) -> None:
    source, target = link_scenes(scenes, tmp_path / "in", 6), tmp_path / "out"
    (tmp_path / "together").mkdir()
    flags = ("--input_top_dir", str(source), "--out_top_dir", str(target), "--workers", "2", "--threads", "2")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("together.py")), *flags],
        env=os.environ | {"TOGETHER": str(tmp_path / "together")},
        timeout=60, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Successfully processed: 6" in done.stderr


def test_killed_worker_is_restarted_with_a_warning(source: Path, tmp_path: Path, quiet: dict[str, bytes]) -> None:
    target = tmp_path / "out"
    with at_work(source, target, "--journal_interval_s", "0.5") as process:
        wait_until(lambda: done(target) >= 5, 60)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert re.search(r"Worker \d has exited \(killed by signal 9\): restarting it", stderr)
    assert results(target) == quiet
    assert "Successfully processed: 60" in stderr


@pytest.mark.parametrize("to_group", [True, False], ids=["ctrl-c", "sigterm"])
def test_signal_stops_all_workers_and_a_rerun_resumes(
    source: Path, tmp_path: Path, quiet: dict[str, bytes], to_group: bool
) -> None:
    target = tmp_path / "out"
    with at_work(source, target) as process:
        wait_until(lambda: done(target) >= 5, 60)
        workers = workers_of(process)
        if to_group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "interrupted with work left" in stderr
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    before = done(target)
    with at_work(source, target) as process:
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert results(target) == quiet
    assert before < COUNT, "the signal came too late to show anything"


def test_workers_exit_when_the_supervisor_is_killed(source: Path, tmp_path: Path, quiet: dict[str, bytes]) -> None:
    target = tmp_path / "out"
    with at_work(source, target) as process:
        wait_until(lambda: done(target) >= 5, 60)
        workers = workers_of(process)
        assert len(workers) == 2
        process.kill()
        wait_until(lambda: not any(is_alive(worker) for worker in workers))
    annotate(source, target, "--annotation_date", DATE, "--threads", "1").check_returncode()
    assert results(target) == quiet


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_configuration_error_of_one_worker_stops_all(source: Path, tmp_path: Path) -> None:
    completed = annotate(source, tmp_path / "out", "--workers", "2", "--device", "cuda")
    assert completed.returncode == 78, completed.stderr
