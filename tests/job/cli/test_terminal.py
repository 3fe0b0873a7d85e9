"""What goes to standard error and standard output: JSON lines only where asked for, and streams that are closed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from job.cli.main import wants_json_log
from tests.processes import results

ANNOTATE = (sys.executable, "-m", "job", "annotate")


def json_lines(*arguments: str) -> tuple[int, list[dict[str, object]]]:
    """Exit code and log of a command; a line that is not JSON is an error."""
    completed = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)
    return completed.returncode, [json.loads(line) for line in completed.stderr.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["annotate"], "Missing option '--input_top_dir'.", 2),
        (["anotate"], "No such command 'anotate'. Did you mean 'annotate'?", 2),
        (["--no_such_flag"], "No such option '--no_such_flag'.", 2),
        (["doctor"], "No such option '--log_format'.", 2),
        (["--input_top_dir", "/nowhere", "--out_top_dir", "/none"], "no such input folder: /nowhere. ", 2),
    ],
)
@pytest.mark.parametrize("flag", [["--log_format", "json"], ["--log-format=json"]], ids=" ".join)
def test_every_error_is_a_json_line(arguments: list[str], message: str, code: int, flag: list[str]) -> None:
    returned, lines = json_lines("-m", "job", *arguments, *flag)
    assert returned == code
    assert str(lines[-1]["message"]).startswith(message)
    assert (lines[-1]["level"], lines[-1]["exit_code"]) == ("ERROR", code)


def test_the_error_that_ends_a_run_is_a_json_line(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text("{}")
    target = str(tmp_path / "out")
    flags = ("--input_top_dir", str(tmp_path / "in"), "--out_top_dir", target, "--log_format", "json")
    code, lines = json_lines("-m", "job", *flags)
    assert code == 65
    assert str(lines[-1]["message"]).startswith("1 of 1 inputs failed")
    assert lines[-1]["error"] == "TooManyFailedError"


def test_what_python_prints_is_a_json_line() -> None:
    code = (
        "import threading, warnings; from job.telemetry.logs import set_up_logging; set_up_logging('INFO', 'json')\n"
        "warnings.warn('odd')\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "class Broken:\n    def __del__(self): raise KeyError('lost')\n"
        "Broken()\n"
    )
    returned, lines = json_lines("-c", code)
    assert returned == 0
    assert "odd" in str(lines[0]["message"])
    assert "ZeroDivisionError" in str(lines[1]["traceback"])
    assert "KeyError: 'lost'" in str(lines[2]["traceback"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--log_format", "json"], True),
        (["--log-format=json"], True),
        (["--log_format", "text"], False),
        (["show", "--", "--log_format", "json"], False),
        (["--log_format"], False),
        ([], False),
    ],
)
def test_which_arguments_ask_for_json(arguments: list[str], expected: bool) -> None:
    assert wants_json_log(arguments) == expected


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_with_closed_streams_does_all_of_its_work(
    closed: str, workers: str, scenes: Path, quiet_run: Path, tmp_path: Path
) -> None:
    command = (*ANNOTATE, "--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / "out"))
    flags = ("--annotation_date", "2026-01-31", "--workers", workers, "--shard_size", "3")
    completed = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command, *flags], timeout=120, capture_output=True, check=False
    )
    assert completed.returncode == 0
    expected = results(quiet_run)
    if workers != "1":  # fewer threads for each: the bytes may differ
        assert results(tmp_path / "out").keys() == expected.keys()
    else:
        assert results(tmp_path / "out") == expected


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_report_with_closed_streams(closed: str, quiet_run: Path) -> None:
    command = (sys.executable, "-m", "job", "audit", str(quiet_run))
    completed = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], timeout=60, check=False)
    assert completed.returncode == 0
