"""Workers and images in flight on the demo model."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from export.bench import concurrency as module
from export.bench.concurrency import main
from job.tools.bench.concurrency import ConcurrencyReport, render_concurrency
from tests.fakes import DEMO_ARTIFACT

FLAGS = ["--model", str(DEMO_ARTIFACT), "--runtime", "onnx", "--threads", "2", "--pictures", "6"]


def test_every_combination_is_a_run_with_a_rate_and_a_peak(tmp_path: Path) -> None:
    out = tmp_path / "demo.concurrency.json"
    runs = ["--run", "1", "2", "--run", "2", "2"]
    result = CliRunner().invoke(main, [*FLAGS, *runs, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = msgspec.json.decode(out.read_bytes(), type=ConcurrencyReport)
    assert result.output.endswith(render_concurrency(report) + "\n")
    one, two = report.rows
    assert [(row.workers, row.in_flight) for row in report.rows] == [(1, 2), (2, 2)]
    assert all(row.images_per_s > 0 < row.cpu_s_an_image for row in report.rows)
    assert 50 << 20 < one.peak_bytes < two.peak_bytes < 2 << 30


def test_too_few_pictures_for_what_is_in_flight(tmp_path: Path) -> None:
    flags = [*FLAGS, "--run", "1", "6", "--out", str(tmp_path / "demo.concurrency.json")]
    result = CliRunner().invoke(main, flags)
    assert result.exit_code == 70
    assert "6 pictures are too few for 6 in flight: give more --pictures" in result.output


def test_more_in_flight_than_fits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "images_in_flight", lambda *_: 1)
    flags = [*FLAGS, "--run", "1", "2", "--out", str(tmp_path / "demo.concurrency.json")]
    result = CliRunner().invoke(main, flags)
    assert result.exit_code == 70
    assert "2 images in flight do not fit into memory: give less in --run" in result.output


def test_a_process_that_another_thread_has_started_counts() -> None:
    process = subprocess.Popen(["sleep", "60"])
    starter = ThreadPoolExecutor(1)
    other = starter.submit(subprocess.Popen, ["sleep", "60"]).result()
    try:
        found = module._tree(os.getpid())
    finally:
        for child in (process, other):
            child.kill()
            child.wait()
        starter.shutdown()
    assert {os.getpid(), process.pid, other.pid} <= set(found)
