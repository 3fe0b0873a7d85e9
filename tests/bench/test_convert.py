"""Conversions of many images: memory does not grow with the data set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_BYTES = 400 << 20


def converted(count: int, folder: Path, format_name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.convert_scale", str(count), str(folder), format_name]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    found: dict[str, float] = json.loads(completed.stdout)
    sys.stdout.write(
        f"{format_name}, {count} images, {found['instances']:.0f} instances: {found['seconds']:.0f} s, peak "
        f"{found['peak'] / 2**20:.0f} MiB (before {found['before'] / 2**20:.0f})\n"
    )
    assert found["images"] == count
    assert found["negatives"] == count / 1000
    return found


@pytest.mark.parametrize(
    ("count", "format_name"),
    [
        pytest.param(20_000, "coco", id="20 thousand"),
        pytest.param(1_000_000, "coco", id="1 million", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_a_conversion_stays_below_400_mb(tmp_path: Path, count: int, format_name: str) -> None:
    assert converted(count, tmp_path, format_name)["peak"] < LIMIT_BYTES
