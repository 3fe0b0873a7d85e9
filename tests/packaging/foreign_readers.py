"""Each format as the programs that use it read it. `test_foreign_readers.py` runs this file in their environment."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import sam3_annotate
from export.demo_model.scenes.scenes import write_scenes
from job.cli.main import run as run_cli
from job.convert.formats.yolo import INSET_PX
from job.convert.outlines import inset, join_parts, outlines, simplify
from tests.guides import blocks, commands, moved
from tests.job.convert.synthetic import CLASSES, CONTENT, ROTATED, convert_set, masks_of, upright_masks_of
from tests.job.convert.test_formats import filled
from tests.processes import annotate

if TYPE_CHECKING:
    from numpy.typing import NDArray


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_the_loader_of_ultralytics(tmp_path: Path, task: str) -> None:
    from ultralytics.data import utils
    from ultralytics.data.dataset import YOLODataset

    convert_set(tmp_path, "yolo", image_mode="copy", task=task)
    data = utils.check_det_dataset(str(tmp_path / "dest" / "data.yaml"), autodownload=False)
    dataset = YOLODataset(img_path=data["train"], data=data, task=task, augment=False)
    labels = {
        str(Path(label["im_file"]).relative_to(tmp_path / "dest/images/train")): label for label in dataset.labels
    }
    assert sorted(labels) == [f"{stem}.jpg" for stem in CONTENT]
    for stem, found in CONTENT.items():
        label, masks = labels[f"{stem}.jpg"], upright_masks_of(stem)
        size_hw = (64, 48) if stem == ROTATED else (48, 64)
        assert label["shape"] == size_hw
        assert [data["names"][int(index)] for index in label["cls"][:, 0]] == [name for name, _, _ in found]
        for box, mask in zip(label["bboxes"], masks, strict=True):
            rows, columns = np.nonzero(mask)
            x0, x1, y0, y1 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
            expected = np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / np.tile(size_hw[::-1], 2)
            assert np.allclose(box, expected, atol=0.2 / 48)
        if task == "segment":
            for segment, mask in zip(label["segments"], masks, strict=True):
                drawn = utils.polygon2mask(size_hw, [(segment * size_hw[::-1]).ravel()]).astype(bool)
                joining = drawn & ~filled(mask)  # the line between two parts
                assert (drawn >= mask).all()
                assert joining.any() == (stem == "a/images/y")


def test_the_cvat_reader_of_datumaro(tmp_path: Path) -> None:
    from datumaro.components.annotation import AnnotationType
    from datumaro.plugins.data_formats.cvat.base import CvatBase

    convert_set(tmp_path, "cvat", image_mode="copy")
    dataset = CvatBase(str(tmp_path / "dest" / "annotations.xml"))
    names = [label.name for label in dataset.categories()[AnnotationType.label]]
    items = {item.id: item for item in dataset}
    assert (names, sorted(items)) == (list(CLASSES), list(CONTENT))
    for stem, found in CONTENT.items():
        annotations = items[stem].annotations
        for annotation, mask, (name, score, _) in zip(annotations, upright_masks_of(stem), found, strict=True):
            assert np.array_equal(annotation.image.astype(bool), mask)
            assert (names[annotation.label], float(annotation.attributes["score"])) == (
                name,
                pytest.approx(score, abs=1e-4),
            )
        with Image.open(tmp_path / "dest" / "images" / f"{stem}.jpg") as image:
            assert image.getexif().get(0x0112, 1) == (6 if stem == ROTATED else 1)


def test_the_decoder_of_label_studio_sdk(tmp_path: Path) -> None:
    from label_studio_sdk.converter.brush import decode_rle

    convert_set(tmp_path, "label-studio")
    tasks = json.loads((tmp_path / "dest" / "tasks" / "000001.json").read_text())
    for task, (stem, found) in zip(tasks, CONTENT.items(), strict=True):
        assert task["data"]["image"].endswith(f"{stem}.jpg")
        regions = task["predictions"][0]["result"]
        for region, mask, (name, score, _) in zip(regions, upright_masks_of(stem), found, strict=True):
            pixels = decode_rle(region["value"]["rle"]).reshape(region["original_height"], region["original_width"], 4)
            assert np.array_equal(pixels[..., 3] > 0, mask)
            assert (region["value"]["brushlabels"], region["score"]) == ([name], score)


@pytest.mark.parametrize("polygons", [False, True])
def test_the_loader_of_labelme(tmp_path: Path, polygons: bool) -> None:
    from labelme._label_file import read_label_file
    from labelme.utils import shapes_to_label

    convert_set(tmp_path, "labelme", image_mode="copy", polygons=polygons)
    for stem, found in CONTENT.items():
        label = read_label_file(str(tmp_path / "dest" / f"{stem}.json"))
        for number, (mask, (name, score, _)) in enumerate(zip(upright_masks_of(stem), found, strict=True)):
            shapes = [shape for shape in label.shapes if shape["group_id"] == number]
            assert {(shape["label"], shape["other_data"]["score"]) for shape in shapes} == {(name, score)}
            _, drawn = shapes_to_label(mask.shape, shapes, {name: 1})
            assert (drawn > 0)[mask].all() if polygons else np.array_equal(drawn > 0, mask)


def test_pyarrow_pandas_and_duckdb(tmp_path: Path) -> None:
    import duckdb
    import pandas

    convert_set(tmp_path, "parquet")
    file = tmp_path / "dest" / "instances.parquet"
    frame = pandas.read_parquet(file)
    assert frame["class"].notna().sum() == sum(map(len, CONTENT.values()))
    (areas,) = duckdb.sql(f"SELECT sum(area) FROM '{file}'").fetchall()[0:1]
    assert areas[0] == sum(int(mask.sum()) for stem in CONTENT for mask in masks_of(stem))


def test_supervision(tmp_path: Path) -> None:
    import supervision

    convert_set(tmp_path, "coco", image_mode="copy")
    folder = tmp_path / "dest"
    dataset = supervision.DetectionDataset.from_coco(
        str(folder / "images"), str(folder / "instances.json"), force_masks=True
    )
    found: dict[str, Any] = {str(Path(path).relative_to(folder / "images")): held for path, _, held in dataset}
    assert sorted(found) == [f"{stem}.jpg" for stem in CONTENT]
    for stem in CONTENT:
        drawn = found[f"{stem}.jpg"].mask if CONTENT[stem] else []
        assert all(np.array_equal(one, mask) for one, mask in zip(drawn, masks_of(stem), strict=True))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What `/data` holds in the guides: `out`, an annotated output."""
    write_scenes(tmp_path / "in", seed=7100, count=6, sizes_wh=((480, 270), (270, 480)))
    annotate(tmp_path / "in", tmp_path / "out", "--device", "cpu").check_returncode()
    return tmp_path


def run_conversions(page: str, data: Path) -> None:
    for command in commands(page, data):
        if command.startswith("sam3-annotate "):
            assert run_cli(shlex.split(command)[1:]) == 0


def test_the_training_of_the_guide_for_yolo(data: Path) -> None:
    run_conversions("train-yolo.md", data)
    (training,) = [command for command in commands("train-yolo.md", data) if command.startswith("yolo ")]
    program, *words = shlex.split(training)
    environment = Path(sys.executable).parent
    subprocess.run([str(environment / program), *words, "plots=False", "workers=0"], check=True, cwd=data)
    assert (data / "runs" / "train" / "weights" / "last.pt").is_file()


def test_the_queries_of_the_guide_for_duckdb(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_conversions("duckdb.md", data)
    names: dict[str, object] = {}
    queries = blocks("duckdb.md", "python")
    assert len(queries) == 5
    for query in queries:
        exec(compile(moved(query, data), "duckdb.md", "exec"), names)
    said = capsys.readouterr().out
    assert "license_plate" in said
    assert "visible_area" in said


def test_pandas_and_supervision_get_the_annotations_of_the_python_api(data: Path) -> None:
    results = sam3_annotate.open_results(data / "out")
    frame = results.to_pandas()
    images = list(results)
    assert frame["class"].notna().sum() == sum(len(image.instances) for image in images)
    assert set(frame["json"]) == {image.key for image in images}
    for image in images:
        detections = image.to_supervision()
        assert len(detections) == len(image.instances)
        for number, instance in enumerate(image.instances):
            assert np.array_equal(detections.mask[number], instance.mask)
            assert tuple(detections.xyxy[number]) == instance.box_xyxy
            assert detections.data["class_name"][number] == instance.class_name


def test_what_a_row_costs_in_iou(tmp_path: Path) -> None:
    """Drawn by Ultralytics' own rasteriser, and compared with the whole masks."""
    from ultralytics.data.utils import polygon2mask

    write_scenes(tmp_path / "in", seed=7100, count=16, sizes_wh=((1280, 720), (720, 1280)))
    annotate(tmp_path / "in", tmp_path / "out", "--device", "cpu").check_returncode()
    ious: dict[str, list[tuple[float, float, float]]] = {"one part": [], "several parts": []}
    for _, instance in sam3_annotate.open_results(tmp_path / "out").instances():
        mask = instance.mask
        exact = [inset(part, INSET_PX) for part in outlines(instance.cropped)]
        simple = [simplify(part) for part in exact]

        def drawn(parts: list[NDArray[np.float64]], mask: NDArray[np.bool_] = mask) -> float:
            return iou(np.logical_or.reduce([polygon2mask(mask.shape, [p.ravel()]) for p in parts]).astype(bool), mask)

        kind = "one part" if len(exact) == 1 else "several parts"
        ious[kind].append((drawn(exact), drawn(simple), drawn([join_parts(simple)])))
    for kind, found in ious.items():
        mean, least = np.mean(found, axis=0).round(3), np.min(found, axis=0).round(3)
        sys.stdout.write(f"IoU of {kind} ({len(found)}): exact, simplified, joined: mean {mean}, least {least}\n")
    assert np.mean(ious["one part"], axis=0)[2] > 0.985
    assert np.mean(ious["several parts"], axis=0)[2] > 0.95
