"""The same input gives the same bytes for any number of images in flight; other thread counts stay close."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.model.artifact import Artifact
from tests.processes import DATE, annotate, results

PRECISIONS = ["fp32", "int8"]
NEAR_THRESHOLD, SCORE, PIXELS = 1e-3, 1e-3, 2
"""semantics of other thread counts; scores are stored with three decimals, so they may differ by one of them."""

Run = Callable[..., Path]


@pytest.fixture
def run(exported: Callable[[str, str], Artifact], tmp_path: Path) -> Run:
    """Annotate with an exported artifact; returns the output."""

    def to_output(source: Path, precision: str, *flags: str) -> Path:
        artifact = exported("onnx", precision)
        target = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        model = ("--model", str(artifact.folder), "--annotation_date", DATE)
        annotate(source, target, *model, *flags).check_returncode()
        return target

    return to_output


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_do_not_depend_on_how_many_images_are_in_flight(scenes: Path, precision: str, run: Run) -> None:
    one, two, four = (results(run(scenes, precision, "--batch_size", number)) for number in ("1", "2", "4"))
    assert one == two == four
    assert len(one) == 30


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_do_not_depend_on_order_and_neighbours(scenes: Path, precision: str, run: Run, tmp_path: Path) -> None:
    whole = results(run(scenes, precision))
    reversed_names = tmp_path / "reversed"
    reversed_names.mkdir()
    json_files = sorted(scenes.rglob("*.json"))
    for number, json_file in enumerate(reversed(json_files)):
        shutil.copy(json_file, reversed_names / f"{number:03d}.json")
        shutil.copy(json_file.with_suffix(".jpg"), reversed_names / f"{number:03d}.jpg")
    mirrored = results(run(reversed_names, precision, "--limit", "5"))
    for number, json_file in enumerate(list(reversed(json_files))[:5]):
        key = str(json_file.relative_to(scenes).with_suffix(".npz"))
        assert mirrored[f"{number:03d}.npz"] == whole[key]


def instances_of(target: Path, key: str) -> list[tuple[str, float, Any]]:
    labels = json.loads((target / f"{key}.json").read_text())["annotation"]["segmentation"][0]["labels"]
    with np.load(target / f"{key}.npz") as arrays:
        mask = arrays["mask"]
    return [
        (name, score, mask == value)
        for name, values in labels["properties"].items()
        for value, score in zip(values, labels["confidences"][name], strict=True)
    ]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", ["2", "3"])
def test_other_thread_counts_find_the_same_instances(scenes: Path, precision: str, threads: str, run: Run) -> None:
    single = run(scenes, precision, "--threads", "1")
    several = run(scenes, precision, "--threads", threads)
    keys = [name.removesuffix(".npz") for name in results(single) if name.endswith(".npz")]
    for key in keys:
        firm = [
            [found for found in instances_of(target, key) if found[1] > 0.4 + NEAR_THRESHOLD]
            for target in (single, several)
        ]
        assert [name for name, _, _ in firm[0]] == [name for name, _, _ in firm[1]]
        for (_, score, mask), (_, other_score, other_mask) in zip(*firm, strict=True):
            assert abs(score - other_score) <= SCORE + 1e-9
            assert np.count_nonzero(mask != other_mask) <= PIXELS
