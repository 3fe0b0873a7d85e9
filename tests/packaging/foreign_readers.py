"""Each format as the programs that use it read it. `test_foreign_readers.py` runs this file in their environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.job.convert.synthetic import CLASSES, CONTENT, ROTATED, convert_set, masks_of, upright_masks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_the_loader_of_ultralytics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    from ultralytics.data import utils
    from ultralytics.data.dataset import YOLODataset

    monkeypatch.setattr(utils, "check_font", lambda *arguments: None)  # it downloads a font for plots
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
            assert np.allclose(box, expected, atol=1e-4)
        if task == "segment":
            for segment, mask in zip(label["segments"], masks, strict=True):
                drawn = utils.polygon2mask(size_hw, [(segment * size_hw[::-1]).round().ravel()]).astype(bool)
                assert (drawn >= mask).all()


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


def two_parts(size_hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A car-like blob that a post of 12 pixels divides."""
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    y, x = rng.uniform(0.35, 0.65, 2) * size_hw
    b, a = rng.uniform(0.1, 0.2, 2) * size_hw
    mask = ((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 < 1
    at = int(x + rng.uniform(-0.5, 0.5) * a)
    mask[:, at : at + 12] = False
    return np.asarray(mask)


def test_what_joining_parts_costs_in_iou() -> None:
    """Drawn as Ultralytics draws: cv2.fillPoly, whose lines have a width of one pixel."""
    from ultralytics.data.utils import polygon2mask

    from job.convert.outlines import join_parts, outlines, simplify
    from job.postprocess.masks import crop_mask

    rng, size_hw = np.random.default_rng(3), (540, 960)
    single, joined = [], []
    for _ in range(60):
        mask = two_parts(size_hw, rng)
        cropped = crop_mask(mask, (0, 0), size_hw)
        assert cropped is not None
        parts = outlines(cropped)
        draw = [polygon2mask(size_hw, [part.ravel()]).astype(bool) for part in parts]
        single.append(iou(np.logical_or.reduce(draw), mask))
        polygon = join_parts([simplify(part) for part in parts])
        joined.append(iou(polygon2mask(size_hw, [polygon.ravel()]).astype(bool), mask))
    sys.stdout.write(f"IoU of exact parts {np.mean(single):.4f}, simplified and joined {np.mean(joined):.4f}\n")
    assert np.mean(joined) > np.mean(single) - 0.01
