"""What a conversion says of labels that may not be what a person expects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.cli.main import run as run_cli


def convert(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, Any], str]:
    """The counts, and what was warned of."""
    capsys.readouterr()
    assert run_cli(["convert", *map(str, arguments), "-o", "json"]) == 0
    said = capsys.readouterr()
    counts: dict[str, Any] = json.loads(said.out)
    return counts, said.err


def test_instances_that_a_reviewer_changed_in_the_json_are_counted(
    quiet_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = shutil.copytree(quiet_run, tmp_path / "edited")
    first, second, *_ = sorted(path for path in edited.rglob("*.json") if "_sam3" not in path.parts)
    for path in (first, second):
        document = json.loads(path.read_text())
        (entry,) = document["annotation"]["segmentation"]
        entry["review"] = {"by": "a person"}
        if path == first:
            labels = entry["labels"]
            name = next(name for name, values in labels["properties"].items() if values)
            labels["properties"][name].pop()
            labels["confidences"][name].pop()
        path.write_text(json.dumps(document))

    counts, _ = convert(capsys, edited, tmp_path / "coco", "--to", "coco", "--reviewed", "only")
    assert (counts["images"], counts["edited"]) == (2, 1)
    assert run_cli(["convert", str(edited), str(tmp_path / "text"), "--to", "coco", "--reviewed", "only"]) == 0
    assert "1 images list other instances in their JSON" in capsys.readouterr().out


def test_without_tables_no_image_is_said_to_be_edited(
    quiet_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A covered instance is in the JSON and has no visible mask, so no row."""
    bare = shutil.copytree(quiet_run, tmp_path / "bare", ignore=shutil.ignore_patterns("_sam3"))
    path = min(bare.rglob("*.json"))
    document = json.loads(path.read_text())
    (entry,) = document["annotation"]["segmentation"]
    labels = entry["labels"]
    values = [value for found in labels["properties"].values() for value in found]
    covered = max(labels["properties"]["car"])
    with np.load(path.with_suffix(".npz")) as arrays:
        mask = arrays["mask"]
    np.savez_compressed(path.with_suffix(".npz"), mask=np.where(mask == covered, 0, mask))
    entry["review"] = {"by": "a person"}
    path.write_text(json.dumps(document))

    counts, _ = convert(capsys, bare, tmp_path / "coco", "--to", "coco", "--reviewed", "only")
    assert (counts["images"], counts["instances"], counts["edited"]) == (1, len(values) - 1, 0)


def test_joined_instances_are_counted(quiet_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    polygons, _ = convert(capsys, quiet_run, tmp_path / "coco", "--to", "coco", "--polygons")
    document = json.loads((tmp_path / "coco" / "instances.json").read_text())
    several = sum(len(one["segmentation"]) > 1 for one in document["annotations"])
    assert (convert(capsys, quiet_run, tmp_path / "yolo", "--to", "yolo")[0]["joined"], polygons["joined"]) == (
        several,
        0,
    )
    assert several > 0


@pytest.mark.parametrize(("flags", "is_warned"), [([], True), (["--split", "0.5"], False)])
def test_yolo_without_a_split_is_a_warning(
    quiet_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], is_warned: bool
) -> None:
    _, warned = convert(capsys, quiet_run, tmp_path / "yolo", "--to", "yolo", *flags)
    assert ("data.yaml validates on the images of the training" in warned) == is_warned


def test_a_conversion_without_an_image_is_a_warning(
    quiet_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts, warned = convert(capsys, quiet_run, tmp_path / "coco", "--to", "coco", "--include", "zzz*")
    assert counts["images"] == 0
    assert "no image was written" in warned
