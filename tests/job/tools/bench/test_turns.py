"""The table of models that took turns: the share of what the processor can do, and files of earlier versions."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from job.tools.bench.turns import MatrixRate, ProductRate, TurnsReport, render_turns

STORED = Path(__file__).parents[4] / "docs" / "measurements" / "xeon-amx-random-weights.turns.json"
FLOAT32, BFLOAT16 = ProductRate(gflop_s=300, gflop_cpu_s=160), ProductRate(gflop_s=2000, gflop_cpu_s=1000)


@pytest.fixture
def earlier() -> TurnsReport:
    """A report without the rate of matrix products, as earlier versions wrote it."""
    report = msgspec.json.decode(STORED.read_bytes(), type=TurnsReport)
    return msgspec.structs.replace(report, matrix_rates=(), flop_an_image=None)


def cells(report: TurnsReport) -> list[list[str]]:
    return [[cell.strip() for cell in x.split("|")[1:-1]] for x in render_turns(report).splitlines() if x[:1] == "|"]


def test_each_model_s_arithmetic_is_compared_with_the_rate_of_its_precision(earlier: TurnsReport) -> None:
    slow = msgspec.structs.replace(FLOAT32, gflop_s=100, gflop_cpu_s=60)
    rates = tuple(MatrixRate(float32=each, bfloat16=BFLOAT16) for each in (slow, FLOAT32, FLOAT32))
    report = msgspec.structs.replace(earlier, matrix_rates=rates, flop_an_image=6.4e12)
    names, _, *rows = cells(report)
    assert names[-2:] == ["GFLOP/s", "share of the rate of matrix products, by processor time"]
    assert len({len(row) for row in (names, *rows)}) == 1
    for row, turns, rate in zip(
        rows,
        (report.original, *(model.seconds for model in report.models)),
        (FLOAT32, FLOAT32, FLOAT32, BFLOAT16),
        strict=False,
    ):
        wall_s, cpu_s = float(row[4]), float(row[5])
        assert float(row[-2]) == pytest.approx(6400 / wall_s, rel=0.02)
        assert float(row[-1].rstrip("%")) / 100 == pytest.approx(6400 / cpu_s / rate.gflop_cpu_s, abs=0.01)
        assert len(turns) == len(report.original)
    eager_cpu_s = float(rows[0][5])
    assert f"by processor time, {eager_cpu_s / (6400 / 160):.2f} times as fast as eager sam3" in render_turns(report)


def test_a_processor_without_bfloat16_has_no_share_for_bf16(earlier: TurnsReport) -> None:
    report = msgspec.structs.replace(earlier, matrix_rates=(MatrixRate(float32=FLOAT32),), flop_an_image=6.4e12)
    assert report.best_rate("bf16") is None
    assert [row[-1] == "-" for row, model in zip(cells(report)[3:], report.models, strict=False)] == [
        model.precision != "fp32" for model in report.models
    ]
    assert "bfloat16" not in render_turns(report)


def test_a_file_of_an_earlier_version_has_no_share(earlier: TurnsReport) -> None:
    data = msgspec.json.decode(msgspec.json.encode(earlier))
    del data["matrix_rates"], data["flop_an_image"]
    report = msgspec.convert(data, TurnsReport)
    assert report == earlier
    assert cells(report)[0][-1] == "with all masks, GB"
    assert "Products of large matrices" not in render_turns(report)
