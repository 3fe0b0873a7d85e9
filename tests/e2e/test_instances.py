"""The laws of the instance table on drawn scenes, with the embedded model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import job.pipeline.stages
from export.demo_model.scenes.scenes import write_scenes
from job.cli.main import run as run_cli
from job.formats.instance_reader import read_instances
from job.formats.rle import decode_rle
from job.postprocess.annotate import Annotation, annotate_grounding
from job.run.options import WorkerOptions
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import request_of
from tests.processes import results
from tests.tables import check_tables


def annotate_recorded(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Annotation]:
    """Annotate a folder; returns the annotations before painting by the key of their JSON."""
    by_mask: dict[bytes, Annotation] = {}

    def record(*arguments: object) -> Annotation:
        annotation = annotate_grounding(*arguments)  # type: ignore[arg-type]
        by_mask[annotation.mask.tobytes()] = annotation
        return annotation

    monkeypatch.setattr(job.pipeline.stages, "annotate_grounding", record)
    options = WorkerOptions(device="cpu", self_check="off")
    request = request_of(source, target, run_name="one", options=options, max_image_pixels=100_000_000)
    annotate(request, Tally())
    monkeypatch.undo()
    found = {}
    for key in (path.relative_to(target).as_posix() for path in target.rglob("*.json") if "_sam3" not in path.parts):
        with np.load(target / key.replace(".json", ".npz")) as arrays:
            found[key] = by_mask[arrays["mask"].tobytes()]
    return found


def check_laws(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows decode to the masks before painting, and paint to the NPZ; returns the number of instances."""
    annotations = annotate_recorded(source, target, monkeypatch)
    store = LocalStore(target, "reader")
    assert check_tables(store) == sorted(annotations)
    count = 0
    for image in read_instances(store):
        annotation = annotations[image.key]
        rows = [row for row in image.rows if row.rle is not None]
        for row, instance in zip(rows, annotation.instances, strict=True):
            x0, y0, x1, y1 = instance.mask.box_xyxy
            whole = np.zeros(annotation.size_hw, np.bool_)
            whole[y0:y1, x0:x1] = instance.mask.crop()
            assert row.rle is not None
            assert np.array_equal(decode_rle(row.rle.counts, row.rle.size), whole)
            assert (row.class_name, row.score, row.query) == (instance.class_name, instance.score, instance.query)
            count += 1
    assert run_cli(["audit", str(target), "--deep", "--log_level", "ERROR"]) == 0
    return count


def test_rows_are_the_masks_before_painting_and_paint_to_the_npz(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_laws(scenes, tmp_path / "out", monkeypatch) > 20


@pytest.mark.slow
def test_rows_of_180_scenes_are_the_masks_before_painting_and_paint_to_the_npz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenes(tmp_path / "in", seed=9000042, count=180)
    assert check_laws(tmp_path / "in", tmp_path / "out", monkeypatch) > 500


def test_outputs_have_the_same_bytes_with_and_without_a_table(scenes: Path, quiet_run: Path, tmp_path: Path) -> None:
    flags = ["--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / "plain"), "--device", "cpu"]
    date = ["--annotation_date", "2026-01-31", "--log_level", "ERROR"]
    assert run_cli(["annotate", *flags, *date, "--instances", "none"]) == 0
    assert results(tmp_path / "plain") == results(quiet_run)
    assert not list(tmp_path.glob("plain/_sam3/runs/*/instances"))
    assert len(check_tables(LocalStore(quiet_run, "reader"))) == 10
