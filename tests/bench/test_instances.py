"""The cost of the instance table: processor time of the host path with it and without, bytes, and requests."""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from export.demo_model.scenes.scenes import write_scenes
from job.formats.instance_reader import read_instances
from job.model.session import Grounding, TextFeatures
from job.run.options import WorkerOptions
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of, use_fake_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

INSTANCES = 7
GRID = 288
"""Side of SAM 3's mask logits."""


def ragged_logits(seed: int) -> NDArray[np.float32]:
    """Ellipses of the size of cars and persons with ragged edges, float32 (INSTANCES, GRID, GRID)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:GRID, :GRID].astype(np.float32)
    logits = np.empty((INSTANCES, GRID, GRID), np.float32)
    for number in range(INSTANCES):
        centre_y, centre_x, radius_y, radius_x = *rng.uniform(40, 250, 2), *rng.uniform(10, 40, 2)
        logits[number] = 4 * (1 - np.hypot((y - centre_y) / radius_y, (x - centre_x) / radius_x))
    logits += rng.normal(size=logits.shape).astype(np.float32) * np.float32(0.2)
    return logits


@dataclass
class ManySession(FakeSession):
    """Finds seven instances in every picture without a model, so that only the host path takes time."""

    answers: list[NDArray[np.float32]] = field(default_factory=lambda: [ragged_logits(seed) for seed in range(8)])

    def ground(self, features: NDArray[np.uint8], text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        scores = np.full((3, INSTANCES), 0.9, np.float32)
        selected = np.array([(0, query) for query in range(INSTANCES)], np.int64)
        return tuple(
            Grounding(scores, selected, self.answers[int(pixels[0, 0, 0]) % len(self.answers)]) for pixels in features
        )


def seconds_an_image(source: Path, target: Path, count: int, instances: str) -> float:
    """Processor time of this process for an image, run and journal included."""
    options = WorkerOptions(device="cpu", shard_size=max(1, count // 4))
    begun_s = time.process_time()
    annotate(request_of(source, target, instances=instances, options=options, max_image_pixels=10_000_000), Tally())
    return (time.process_time() - begun_s) / count


@pytest.mark.parametrize(("count", "turns"), [(6, 3), pytest.param(40, 7, marks=pytest.mark.slow)])
def test_host_cost_with_and_without_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, turns: int
) -> None:
    """Both in turn, in one process, at 1920 x 1080 with seven instances an image."""
    use_fake_session(monkeypatch, ManySession())
    write_scenes(tmp_path / "in", seed=77, count=count, sizes_wh=((1920, 1080),))
    spent: dict[str, list[float]] = {"none": [], "table": []}
    for turn in range(turns):
        for instances, times in spent.items():
            times.append(seconds_an_image(tmp_path / "in", tmp_path / f"{instances}{turn}", count, instances))
    ratios = [table / none for none, table in zip(spent["none"], spent["table"], strict=True)]
    found = list(read_instances(LocalStore(tmp_path / "table0", "reader")))
    kept = sum(row.class_name is not None for image in found for row in image.rows)
    parts = list((tmp_path / "table0").glob("_sam3/runs/*/instances/*/*"))
    stored = sum(os.path.getsize(part) for part in parts)
    sys.stdout.write(
        f"host path, {count} images of 1920 x 1080, {kept / count:.1f} instances an image: "
        f"without the table {1e3 * statistics.median(spent['none']):.1f} ms of processor time an image, "
        f"with it {1e3 * statistics.median(spent['table']):.1f} ms, ratio {statistics.median(ratios):.3f}; "
        f"{stored / count / 1e3:.2f} kB an image in {len(parts)} parts\n"
    )
    assert kept >= 5 * count
    assert min(ratios) < 1.2
