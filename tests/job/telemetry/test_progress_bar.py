"""The progress bar and the summary: their counts agree with each other at any time."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from job.cli.main import run as run_cli
from job.run.journal import ANNOTATED, FAILED, REVIEWED, ResultRow
from job.telemetry.progress_bar import COMPLETE, Tally, counts_of, log_summary, significant
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of, write_inputs

REFRESH = re.compile(r"(\d+)/(\d+) \[[^\]]*✓=(\d+), ✗=(\d+)(?:, skipped=(\d+))?\]")


def on_terminal(*arguments: str) -> tuple[int, str]:
    """Exit code and output of the command line in a terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "job", *arguments]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "COLUMNS": "120", "LINES": "40"}
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            read = os.read(master, 65536)
        except OSError:  # the process has closed its end
            break
        shown += read
    os.close(master)
    return process.wait(60), shown.decode()


def test_the_counts_make_up_the_number_at_every_refresh(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for path in scenes.rglob("*.*"):
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    next((tmp_path / "in").glob("*.jpg")).unlink()
    flags = ("--input_top_dir", str(tmp_path / "in"), "--out_top_dir", str(tmp_path / "out"), "--batch_size", "1")
    code, shown = on_terminal(*flags, "--max_failed_fraction", "1")
    assert code == 0, shown
    refreshes = [tuple(int(text or 0) for text in found) for found in REFRESH.findall(shown)]
    assert len(refreshes) >= 3
    assert all(done + failed + skipped == n for n, _, done, failed, skipped in refreshes), refreshes
    assert refreshes[-1] == (10, 10, 9, 1, 0)
    assert shown.count("/10 [") == len(refreshes), "every refresh shows the counts"


def test_json_lines_on_a_terminal_have_no_bar(scenes: Path, tmp_path: Path) -> None:
    flags = ("--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / "out"), "--log_format", "json")
    code, shown = on_terminal(*flags)
    assert code == 0
    assert all(line.startswith("{") for line in shown.splitlines())


def test_what_a_worker_reported_is_taken_back() -> None:
    row = ResultRow(json="a", result=ANNOTATED, scores={"car": [0.9, 0.8]}, dropped={"beyond_255": 3})
    tally = Tally()
    assert tally.add_counts(counts_of(row)) == 1
    assert (tally.annotated, tally.own, tally.cut, tally.instances["car"]) == (1, 1, 3, 2)
    assert tally.add_counts({name: -count for name, count in counts_of(row).items()}) == -1
    assert (tally.annotated, tally.own, tally.cut, tally.instances["car"], tally.finished) == (0, 0, 0, 0, 0)


def test_the_summary(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally(skipped=4, work_s=4.0, without_json=7)
    for row in (
        ResultRow(json="a", result=ANNOTATED, scores={"car": [0.9, 0.8], "person": [0.5]}),
        ResultRow(json="b", result=ANNOTATED),
        ResultRow(json="c", result=FAILED, reason="x"),
        ResultRow(json="d", result=REVIEWED),
    ):
        tally.add_counts(counts_of(row))
    with caplog.at_level(logging.INFO):
        log_summary(tally, COMPLETE, output_url="s3://b/out", seconds=9.0)
    rule = "\n" + "=" * 60
    assert caplog.messages == [
        rule,
        "Processing complete!",
        "Successfully processed: 2",
        "Failed: 1",
        "Skipped (already done): 4",
        "Skipped (reviewed by a person): 1",
        "Images without a JSON: 7 (no inputs: --missing_json create takes them)",
        "Time: 9.0 s, of which 4.0 s for 2 images (0.50 images/s)",
        "Instances: car 2, person 1",
        "Images without instances: 1",
        "Output: s3://b/out",
        rule,
    ]


@pytest.mark.parametrize(
    ("rate", "shown"), [(0.0, "0.00"), (0.003, "0.003"), (0.0123, "0.012"), (0.5, "0.50"), (12.345, "12.35")]
)
def test_a_rate_is_never_rounded_to_nothing(rate: float, shown: str) -> None:
    assert significant(rate) == shown


def test_each_image_is_one_line_at_debug(
    tmp_path: Path, fake_session: FakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    write_inputs(tmp_path / "in", 2)
    (tmp_path / "in" / "00001.jpg").unlink()
    with caplog.at_level(logging.DEBUG, logger="job"):
        tally = Tally()
        request = request_of(tmp_path / "in", tmp_path / "out")
        with pytest.raises(Exception, match="1 of 2 inputs failed"):
            annotate(request, tally)
    lines = {line.partition(":")[0]: line for line in caplog.messages if "; ms: " in line}
    assert lines["00000.json"].startswith("00000.json: annotated; car 0.900; ms: read ")
    assert all(stage in lines["00000.json"] for stage in ("decode", "infer", "postprocess", "encode", "write"))
    assert lines["00001.json"].startswith("00001.json: failed (No image found at ")


@pytest.mark.parametrize("command", ["annotate", "plan"])
def test_an_input_without_json_files(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_inputs(tmp_path / "in", 3)
    for path in (tmp_path / "in").glob("*.json"):
        path.unlink()
    flags = [command, "--input_top_dir", str(tmp_path / "in"), "--out_top_dir", str(tmp_path / "out")]
    assert run_cli(flags) == 0
    shown = capsys.readouterr().err
    assert f"WARNING - No JSON files found in {tmp_path}/in" in shown
    assert "3 images without a JSON were found" in shown
    for _ in range(2):  # the second time after the end of the first run
        assert run_cli([*flags, "--fail_if_empty"]) == 65
        assert f"Error: no JSON files in {tmp_path}/in (--fail_if_empty)" in capsys.readouterr().err


def test_an_input_without_images_is_not_told_to_create_jsons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    flags = ["--input_top_dir", str(tmp_path / "in"), "--out_top_dir", str(tmp_path / "out"), "--fail_if_empty"]
    assert run_cli(["annotate", *flags, "--missing_json", "create"]) == 65
    assert capsys.readouterr().err.endswith(
        f"Error: no JSON files and no images (.jpg and .jpeg) in {tmp_path}/in (--fail_if_empty): give the folder or "
        "prefix of the images\n"
    )


def test_a_finished_folder(tmp_path: Path, quiet_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["--input_top_dir", str(scenes), "--out_top_dir", str(quiet_run), "--fail_if_empty"]) == 0
    shown = capsys.readouterr().err
    assert "Found 0 JSON files" not in shown
    assert "All 10 JSON files found are annotated already" in shown
    assert "Skipped (already done): 10" in shown
    assert f"Output: {quiet_run}" in shown
