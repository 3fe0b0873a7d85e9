"""Millions of keys: bounded memory for a plan, a re-run that only lists, and plans of a billion inputs."""

from __future__ import annotations

import json
import math
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


SIZES = [
    pytest.param(1_500_000, id="1.5 million"),
    pytest.param(100_000_000, id="100 million", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    pytest.param(1_000_000_000, id="1 billion", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]


@pytest.mark.parametrize("num_indexes", [1, 1000, 5000])
@pytest.mark.parametrize("inputs", SIZES)
def test_a_plan_of_any_size_leaves_no_index_idle_and_its_run_ends(inputs: int, num_indexes: int) -> None:
    """Shards, markers and rows are simulated; see tests/bench/simulated.py."""
    command = [sys.executable, "-m", "tests.bench.simulated", str(inputs), str(num_indexes)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=True)
    found = json.loads(completed.stdout)
    sys.stdout.write(f"{found}\n")
    assert found["idle_indexes"] == 0
    assert found["largest_share"] <= inputs / num_indexes * 1.125 + 1
    assert found["shards"] <= 1.01 * inputs / 1000 + 8 * num_indexes * (1 + math.log(max(1, inputs / 1e6)))
    assert found["parts_of_an_index"] <= found["parts"] / num_indexes + 2
    assert found["end_requests"]["GET"] <= found["shards"] + 10
    assert found["end_requests"]["LIST"] <= 1.5 * found["shards"] / 1000 + 50
