"""Millions of keys: bounded memory for a plan, and a re-run in the time of its listings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def scale(what: str, count: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.scale", what, str(count), str(folder)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=True)
    found: dict[str, float] = json.loads(completed.stdout)
    sys.stdout.write(f"{what} of {count}: {found['seconds']:.0f} s, peak {found['peak'] / 2**20:.0f} MiB\n")
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_plan_of_ten_million_keys_takes_the_memory_of_one_million(tmp_path: Path) -> None:
    small, large = scale("plan", 1_000_000, tmp_path / "small"), scale("plan", 10_000_000, tmp_path / "large")
    assert (small["planned"], large["planned"]) == (1_000_000, 10_000_000)
    assert large["peak"] < 1.2 * small["peak"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rerun_over_a_million_done_images_costs_the_listings_and_reads_nothing(tmp_path: Path) -> None:
    ratios = []
    for turn in range(3):
        bare = scale("listing", 1_000_000, tmp_path / f"bare{turn}")
        rerun = scale("rerun", 1_000_000, tmp_path / f"rerun{turn}")
        assert (rerun["listed"], rerun["planned"]) == (1_000_000, 0)
        ratios.append(rerun["seconds"] / bare["seconds"])
    sys.stdout.write(f"re-run to a bare listing of both sides: {ratios}\n")
    assert sorted(ratios)[1] <= 1.5
