"""Models and eager sam3 take turns on the demo model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from export.bench.cost import counted_flop
from export.bench.turns import main
from job.model.processor import computes_bfloat16
from job.tools.bench.turns import TurnsReport, render_turns
from tests.fakes import DEMO_ARTIFACT

pytestmark = pytest.mark.torch


def test_each_model_is_measured_and_compared_with_sam3_in_each_turn(tmp_path: Path) -> None:
    out = tmp_path / "demo.turns.json"
    flags = ["--checkpoint", "demo", "--model", str(DEMO_ARTIFACT), "onnx", "--threads", "1", "--turns", "2"]
    result = CliRunner().invoke(main, [*flags, "--out", str(out)], catch_exceptions=False)
    report = msgspec.json.decode(out.read_bytes(), type=TurnsReport)
    assert result.output.endswith(render_turns(report) + "\n")
    (model,) = report.models
    assert len(report.original) == len(model.seconds) == len(report.load_average) == 2
    assert all(min(msgspec.structs.astuple(each)) > 0 for each in (*report.original, *model.seconds))
    assert model.parity.passed
    assert model.parity.score_max < 1e-4
    assert model.peak_bytes <= model.peak_all_bytes < 1 << 30, "torch is not in the memory that is measured"
    assert len(report.matrix_rates) == 2
    rates = [each.float32 for each in report.matrix_rates]
    assert all(0 < rate.gflop_s <= 1.1 * rate.gflop_cpu_s for rate in rates), "one thread"
    assert all((each.bfloat16 is None) != computes_bfloat16() for each in report.matrix_rates)
    assert report.flop_an_image is None, "counted for full size only"
    (wall, cpu) = report.ratios(model)
    assert f"| {wall:.2f} | {cpu:.2f} |" in render_turns(report)


def test_flop_of_full_size_come_from_the_stored_count() -> None:
    assert counted_flop(1008, 3) == pytest.approx(6.81e12, rel=0.01)
    assert counted_flop(1008, 4) is None
    assert counted_flop(336, 3) is None


def test_a_model_that_cannot_run_here_is_one_sentence(tmp_path: Path) -> None:
    flags = ["--checkpoint", "demo", "--model", str(tmp_path), "onnx", "--threads", "1"]
    result = CliRunner().invoke(main, [*flags, "--out", str(tmp_path / "x.json")])
    assert result.exit_code == 78
    assert "no model at" in result.output
