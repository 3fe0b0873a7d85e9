"""A run that is killed at any moment and resumed ends with the bytes of an undisturbed run."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from job.storage.local.store import LocalStore
from tests.processes import DATE, annotate, results
from tests.tables import check_tables

KILLED = Path(__file__).with_name("killed.py")
MOMENTS, SLOW_MOMENTS = 12, 24
"""One of each phase and five spread over the run; the slow tests kill at twelve more."""
SEED = 20260131
PHASES = {
    "plan": lambda path: "/plan" in path or path.endswith("run.json"),
    "instance table": lambda path: "/instances/" in path,
    "journal": lambda path: "/journal/" in path or "/workers/" in path,
    "image": lambda path: path.endswith(".jpg"),
    "mask": lambda path: path.endswith(".npz"),
    "annotation": lambda path: path.endswith(".json") and "_sam3" not in path,
    "end": lambda path: "/done/" in path or path.endswith(("end.json", "failures.jsonl")),
}


def run_killed(
    scenes: Path, target: Path, signal_name: str, number: int, *flags: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    trace = target.parent / f"trace-{number}"
    command = [sys.executable, str(KILLED), signal_name, str(number), str(trace)]
    command += ["--input_top_dir", str(scenes), "--out_top_dir", str(target), "--annotation_date", DATE, *flags]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return completed, trace.read_text(encoding="utf-8").splitlines()


def phase_of(line: str) -> str:
    path = line.split(" ", 2)[2]
    return next((phase for phase, fits in PHASES.items() if fits(path)), "scratch")


def drawn_moments(operations: list[str], moments: int) -> list[int]:
    """Numbers of operations: one of each phase first, then spread over the run."""
    generator = random.Random(SEED)
    by_phase: dict[str, list[int]] = {}
    for number, line in enumerate(operations, start=1):
        by_phase.setdefault(phase_of(line), []).append(number)
    first = [generator.choice(numbers) for phase, numbers in by_phase.items() if phase in PHASES]
    step = len(operations) / (moments - len(first))
    spread = [int(step * (i + generator.random())) + 1 for i in range(moments - len(first))]
    return first + spread


@pytest.fixture(scope="module")
def operations(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    _, lines = run_killed(scenes, tmp_path_factory.mktemp("trace") / "out", "SIGKILL", 0)
    return lines


def test_every_phase_is_killed(operations: list[str]) -> None:
    assert set(PHASES) <= {phase_of(line) for line in operations}
    assert set(PHASES) <= {phase_of(operations[number - 1]) for number in drawn_moments(operations, MOMENTS)}


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_run_resumes_with_the_same_bytes(
    moment: int, scenes: Path, quiet_run: Path, operations: list[str], tmp_path: Path
) -> None:
    kill_and_resume(moment, drawn_moments(operations, MOMENTS), scenes, quiet_run, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(SLOW_MOMENTS))
def test_killed_run_resumes_with_the_same_bytes_at_more_moments(
    moment: int, scenes: Path, quiet_run: Path, operations: list[str], tmp_path: Path
) -> None:
    kill_and_resume(moment, drawn_moments(operations, SLOW_MOMENTS), scenes, quiet_run, tmp_path / "out")


def kill_and_resume(moment: int, numbers: list[int], scenes: Path, quiet_run: Path, target: Path) -> None:
    """Kill at one of the numbered operations, resume, and compare with an undisturbed run."""
    number = numbers[moment]
    signal_name = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")[moment % 4]
    killed, trace = run_killed(scenes, target, signal_name, number)
    if signal_name == "SIGKILL" and len(trace) >= number:
        assert killed.returncode == -9
    else:
        assert killed.returncode in {0, 75}, killed.stderr
    again = annotate(scenes, target, "--annotation_date", DATE)
    assert again.returncode == 0, again.stderr
    assert results(target) == results(quiet_run), f"{signal_name} at {trace[-1]}"
    assert len(check_tables(LocalStore(target, "reader"))) == 10


def test_killed_override_run_resumes_without_repeating_images(
    scenes: Path, quiet_run: Path, operations: list[str], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    annotate(scenes, target, "--annotation_date", "2020-02-02").check_returncode()
    flags = ("--override_previous_annotations", "--journal_interval_s", "0.1")
    run_killed(scenes, target, "SIGKILL", len(operations) * 2 // 3, *flags)
    again = annotate(scenes, target, "--annotation_date", DATE, *flags, "--log_level", "DEBUG")
    assert again.returncode == 0, again.stderr
    assert results(target) == results(quiet_run)
    journalled = [
        line
        for part in target.glob("_sam3/runs/*/journal/*/*.jsonl")
        for line in part.read_text(encoding="utf-8").splitlines()
        if '"result"' in line and part.parts[-4] == sorted(p.name for p in target.glob("_sam3/runs/*"))[-1]
    ]
    assert len(check_tables(LocalStore(target, "reader"))) == 10
    assert len(journalled) == 10, "every image has one row of the override run: none was done twice after its row"
