"""The end of a pod: its termination message, and SIGTERM at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from job.cli.termination_message import LONGEST_BYTES, VARIABLE, write_termination_message
from tests.fakes import DEMO_ARTIFACT
from tests.processes import DATE, running, wait_until
from tests.web import served

TROUBLED = str(Path(__file__).parent / "troubled.py")
SOON_S = 5.0
"""After SIGTERM; a pod has 30 s by default."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "termination-log"
    path.touch()
    return path


@pytest.fixture
def source(scenes: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted(scenes.rglob("*.json"))[:4]:
        for suffix in (".json", ".jpg"):
            os.link(path.with_suffix(suffix), folder / path.with_suffix(suffix).name)
    return folder


def flags_of(source: Path, *more: str) -> list[str]:
    target = source.parent / "out"
    return ["--input_top_dir", str(source), "--out_top_dir", str(target), "--annotation_date", DATE, *more]


def ended(log: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and termination message of a process."""
    completed = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, VARIABLE: str(log)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    return completed.returncode, log.read_text()


EARLY = {
    "usage": (["annotate"], (2, "MissingParameter, exit 2: Missing option '--input_top_dir'.\n")),
    "no such command": (
        ["anotate"],
        (2, "NoSuchCommand, exit 2: No such command 'anotate'. Did you mean 'annotate'?\n"),
    ),
    "configuration": (
        ["doctor", "--input_top_dir", "/nowhere", "--out_top_dir", "/nowhere/out"],
        (2, "UsageError, exit 2: output /nowhere/out and input /nowhere are one folder"),
    ),
    "no run": (["progress", "/nowhere", "--once"], (2, "UsageError, exit 2: ")),
    "success": (["--version"], (0, "")),
}


@pytest.mark.parametrize(("arguments", "expected"), EARLY.values(), ids=EARLY)
def test_every_command_writes_a_termination_message(arguments: list[str], expected: tuple[int, str], log: Path) -> None:
    code, message = ended(log, "-m", "job", *arguments)
    assert code == expected[0]
    assert message.startswith(expected[1])
    assert message.count("\n") == (code != 0)


def test_folder_without_a_model(source: Path, log: Path) -> None:
    assert ended(log, "-m", "job", *flags_of(source, "--model", str(source))) == (
        78,
        f"ArtifactError, exit 78: no model at {source}: it has no manifest.json. "
        "Give the folder that `sam3-annotate export` wrote\n",
    )


def test_too_many_failed(source: Path, log: Path) -> None:
    next(source.glob("*.jpg")).unlink()
    code, message = ended(log, "-m", "job", *flags_of(source))
    assert code == 65
    assert message.startswith("TooManyFailedError, exit 65: 1 of 4 inputs failed")


def test_an_image_that_hangs(source: Path, log: Path) -> None:
    code, message = ended(log, TROUBLED, "hung_image", *flags_of(source, "--image_timeout_s", "1"))
    assert code == 70
    assert message.startswith("HungImageError, exit 70: ")
    assert "stage decode has not ended after 1 s" in message


def test_unexpected_error(source: Path, log: Path) -> None:
    assert ended(log, TROUBLED, "unexpected", *flags_of(source)) == (
        70,
        "RuntimeError, exit 70: two lines of a defect\n",
    )


def test_message_is_truncated_at_a_character(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(log))
    for text in ("x" * 5000, "ü" * 5000, "x" + "ü" * 5000, "…" * 5000, "\ud800" * 5000):
        write_termination_message("E", 70, text)
        assert LONGEST_BYTES - 4 <= len(log.read_bytes()) <= LONGEST_BYTES
        assert log.read_text().endswith("…\n")


@pytest.mark.parametrize("path", ["/proc/nothing", "/nowhere/log", ""])
def test_unwritable_termination_log_is_ignored(path: str) -> None:
    command = [sys.executable, "-m", "job", "annotate"]
    completed = subprocess.run(
        command, env={**os.environ, VARIABLE: path}, capture_output=True, text=True, timeout=60, check=False
    )
    assert completed.returncode == 2
    assert "Traceback" not in completed.stderr


def said(target: Path, activity: str) -> Callable[[], bool]:
    """Whether a heartbeat of the output has an activity."""

    def has_activity() -> bool:
        beats = [path.read_bytes() for path in target.rglob("workers/*.json")]
        return any(json.loads(beat)["activity"] == activity for beat in beats)

    return has_activity


def terminated(process: subprocess.Popen[str]) -> int:
    """Send SIGTERM; returns the exit code, which must come within `SOON_S`."""
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    assert time.monotonic() - begun < SOON_S
    return code


def test_sigterm_while_the_model_is_fetched(source: Path, log: Path) -> None:
    with served(DEMO_ARTIFACT) as web:
        web.hold_after = ("grounding.onnx", 0)
        flags = flags_of(source, "--model", web.url, "--model_cache", str(source.parent / "cache"))
        with running("-m", "job", *flags, environment={VARIABLE: str(log)}) as process:
            assert web.held.wait(30)
            assert terminated(process) == 75
    assert log.read_text().startswith("InterruptedRunError, exit 75: interrupted with work left")
    assert said(source.parent / "out", "left")()


def test_sigterm_before_there_is_a_run(source: Path) -> None:
    with served(DEMO_ARTIFACT) as web:
        web.hold_after = ("manifest.json", 0)
        flags = flags_of(source, "--model", web.url, "--model_cache", str(source.parent / "cache"))
        with running("-m", "job", *flags) as process:
            assert web.held.wait(30)
            assert terminated(process) == 75


def test_sigterm_while_the_model_is_loaded(source: Path) -> None:
    with running(TROUBLED, "slow_load", *flags_of(source)) as process:
        wait_until(lambda: next((source.parent / "out").rglob("plan.json"), None))
        time.sleep(1)
        assert terminated(process) == 75


INTERRUPTED_IMPORT = """
import os, signal, sys, time
from job.cli.main import main
from job.errors import InterruptedRunError

class Interrupted:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "onnxruntime":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            except InterruptedRunError as exc:
                raise ImportError("numpy._core.multiarray failed to import") from exc

sys.meta_path.insert(0, Interrupted)
main(sys.argv[1:])
"""
"""An extension module in whose import Python code is interrupted: it fails with an error of its own."""


def test_sigterm_while_an_extension_module_is_imported(source: Path, log: Path) -> None:
    code, message = ended(log, "-c", INTERRUPTED_IMPORT, "annotate", *flags_of(source, "--runtime", "onnx"))

    assert (code, "multiarray failed" in message) == (75, True), message


def test_sigterm_while_another_process_plans(source: Path) -> None:
    flags = flags_of(source, "--run", "r", "--index", "1", "--num_indexes", "2")
    with running("-m", "job", *flags) as process:
        wait_until(said(source.parent / "out", "planning"))
        time.sleep(1)
        assert terminated(process) == 75


def test_sigterm_while_an_older_run_is_watched(source: Path) -> None:
    """An unfinished run with a young heartbeat makes a process of other options wait 70 s before it begins."""
    with running("-m", "job", *flags_of(source, "--run", "a", "--index", "1", "--num_indexes", "2")) as older:
        wait_until(said(source.parent / "out", "planning"))
        with running("-m", "job", *flags_of(source, "--run", "b", "--prompts", "car,person")) as younger:
            time.sleep(2.5)
            assert terminated(younger) == 75
        assert older.poll() is None
    assert [path.name for path in (source.parent / "out" / "_sam3" / "runs").iterdir()] == ["a"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rerun_resumes_after_sigterm_during_work(source: Path, workers: str) -> None:
    for path in sorted(source.iterdir()):
        for number in range(3):
            os.link(path, path.with_name(f"{number}-{path.name}"))
    flags = flags_of(source, "--workers", workers, "--run", "r", "--shard_size", "2")
    with running("-m", "job", *flags) as process:
        wait_until(lambda: next((source.parent / "out").rglob("done/*.json"), None))
        assert terminated(process) == 75
    assert said(source.parent / "out", "left")()
    with running("-m", "job", *flags) as process:
        assert process.wait(60) == 0


def test_sigterm_while_an_image_hangs(source: Path) -> None:
    with running(TROUBLED, "hung_image", *flags_of(source)) as process:
        wait_until(lambda: next((source.parent / "out").rglob("journal/*/*"), None))
        assert terminated(process) == 75


def test_sigterm_after_the_last_image_exits_0(source: Path, log: Path) -> None:
    environment = {VARIABLE: str(log), "IMAGES": "4"}
    with running(TROUBLED, "term_at_the_end", *flags_of(source), environment=environment) as process:
        assert process.wait(60) == 0
    assert log.read_text() == ""
    assert json.loads(next((source.parent / "out").rglob("end.json")).read_text())["annotated"] == 4
