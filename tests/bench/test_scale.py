"""Millions of keys: bounded memory for a plan, and a re-run in the time of its listings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from job.plan.sharding import LARGEST_HELD_PLAN


def scale(what: str, count: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.scale", what, str(count), str(folder)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=True)
    found: dict[str, float] = json.loads(completed.stdout)
    sys.stdout.write(f"{what} of {count}: {found['seconds']:.0f} s, peak {found['peak'] / 2**20:.0f} MiB\n")
    return found


@pytest.mark.parametrize(
    ("few", "many"),
    [
        pytest.param(20_000, 200_000, id="200 thousand"),
        pytest.param(1_000_000, 10_000_000, id="10 million", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_a_plan_of_many_keys_takes_the_memory_of_the_largest_held_plan(tmp_path: Path, few: int, many: int) -> None:
    small, large = scale("plan", few, tmp_path / "small"), scale("plan", many, tmp_path / "large")
    assert (small["planned"], large["planned"]) == (few, many)
    held_bytes = 400 * (min(many, LARGEST_HELD_PLAN) - min(few, LARGEST_HELD_PLAN))
    assert large["peak"] < 1.2 * small["peak"] + held_bytes


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(50_000, id="50 thousand"),
        pytest.param(1_000_000, id="1 million", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_a_rerun_over_done_images_reads_nothing(tmp_path: Path, count: int) -> None:
    bare = scale("listing", count, tmp_path / "bare")
    rerun = scale("rerun", count, tmp_path / "rerun")
    assert (bare["listed"], rerun["listed"], rerun["planned"]) == (5 * count, count, 0)


@pytest.mark.parametrize("done", [pytest.param(0, id="first run"), pytest.param(8_000, id="re-run")])
def test_a_plan_takes_at_most_twice_the_processor_time_of_a_bare_listing(done: int) -> None:
    """Recorded pages of S3, which the real driver parses, in both."""
    command = [sys.executable, "-m", "tests.bench.recorded", "8000", str(done)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, float] = json.loads(completed.stdout)
    listing, plan = (1e6 * found[name] / found["images"] for name in ("listing", "plan"))
    sys.stdout.write(f"processor time of an image: listing {listing:.0f} us, plan {plan:.0f} us\n")
    assert plan <= 2 * listing
