"""Each format holds every instance: read back by pycocotools, an XML parser, Pillow and pyarrow."""

from __future__ import annotations

import base64
import io
import json
import xml.etree.ElementTree as ElementTree
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from job.convert.formats.yolo import label_key
from tests.job.convert.synthetic import (
    CLASSES,
    CONTENT,
    ROTATED,
    SyntheticSource,
    convert_set,
    masks_of,
    upright_masks_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

INSTANCES = sum(map(len, CONTENT.values()))


def read_coco(path: Path) -> COCO:
    with redirect_stdout(io.StringIO()):
        return COCO(str(path))


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without holes: what the background around the mask does not reach."""
    outside = np.pad(np.zeros_like(mask), 1, constant_values=True)
    empty = np.pad(~mask, 1, constant_values=True)
    while True:
        grown = outside.copy()
        grown[1:] |= outside[:-1]
        grown[:-1] |= outside[1:]
        grown[:, 1:] |= outside[:, :-1]
        grown[:, :-1] |= outside[:, 1:]
        grown &= empty
        if (grown == outside).all():
            return ~outside[1:-1, 1:-1]
        outside = grown


@pytest.mark.parametrize("polygons", [False, True])
def test_coco(tmp_path: Path, polygons: bool) -> None:
    counts = convert_set(tmp_path, "coco", polygons=polygons, results=True)
    assert (counts.images, counts.instances, counts.negatives) == (4, INSTANCES, 1)
    found = read_coco(tmp_path / "dest" / "instances.json")
    assert [found.imgs[number]["file_name"] for number in (1, 2, 3, 4)] == [f"{stem}.jpg" for stem in CONTENT]
    assert sorted(found.anns) == list(range(1, INSTANCES + 1))
    assert [found.cats[number]["name"] for number in (1, 2, 3, 4)] == list(CLASSES)
    for number, stem in enumerate(CONTENT, start=1):
        annotations = found.loadAnns(found.getAnnIds(imgIds=[number]))
        for annotation, mask, (name, score, _) in zip(annotations, masks_of(stem), CONTENT[stem], strict=True):
            expected = filled(mask) if polygons else mask
            assert (found.annToMask(annotation).astype(bool) == expected).all()
            assert (annotation["score"], annotation["iscrowd"]) == (score, 0)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist()
            assert found.cats[annotation["category_id"]]["name"] == name
    with redirect_stdout(io.StringIO()):
        results = found.loadRes(str(tmp_path / "dest" / "results.json"))
    assert len(results.anns) == INSTANCES


def test_equal_options_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert_set(tmp_path / name, "coco")
    one, two = ((tmp_path / name / "dest" / "instances.json").read_bytes() for name in ("one", "two"))
    assert one == two


def draw(polygon: list[float], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    rles = coco_mask.frPyObjects([polygon], *size_hw)
    return np.asarray(coco_mask.decode(coco_mask.merge(rles))).astype(bool)


def test_yolo_has_one_row_an_instance_in_the_upright_image(tmp_path: Path) -> None:
    convert_set(tmp_path, "yolo", image_mode="link")
    for stem, found in CONTENT.items():
        image = f"images/train/{stem}.jpg"
        assert (tmp_path / "dest" / image).resolve() == (tmp_path / "out" / f"{stem}.jpg").resolve()
        rows = (tmp_path / "dest" / label_key(image)).read_text().splitlines()
        for row, mask, (name, _, _) in zip(rows, upright_masks_of(stem), found, strict=True):
            index, *values = row.split()
            points = np.array(values, float).reshape(-1, 2) * mask.shape[::-1]
            assert CLASSES[int(index)] == name
            assert (draw(points.ravel().tolist(), mask.shape) == filled(mask)).all()
    text = (tmp_path / "dest" / "data.yaml").read_text()
    assert text == (
        'train: images/train\nval: images/train\nnames:\n  0: "car"\n  1: "license_plate"\n  2: "person"\n'
        '  3: "passenger"\n'
    )


def test_yolo_boxes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    convert_set(tmp_path, "yolo", task="detect")
    first = (tmp_path / "dest" / "labels/train" / f"{ROTATED}.txt").read_text().splitlines()[0]
    rows, columns = np.nonzero(upright_masks_of(ROTATED)[0])
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    expected = [2, (x0 + x1) / 2 / 48, (y0 + y1) / 2 / 64, (x1 - x0) / 48, (y1 - y0) / 64]
    assert np.allclose([float(value) for value in first.split()], expected, atol=1e-5)


def test_labels_lie_where_ultralytics_looks_for_them() -> None:
    assert label_key("images/train/images/a.b.jpg") == "images/train/labels/a.b.txt"
    assert label_key("images/val/yard/a.jpg") == "labels/val/yard/a.txt"


def runs_to_mask(runs: str, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    lengths = [int(run) for run in runs.split(",")]
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size_hw)


def test_cvat(tmp_path: Path) -> None:
    convert_set(tmp_path, "cvat")
    root = ElementTree.parse(tmp_path / "dest" / "annotations.xml").getroot()
    assert [label.findtext("name") for label in root.iter("label")] == list(CLASSES)
    assert [image.get("name") for image in root.iter("image")] == [f"{stem}.jpg" for stem in CONTENT]
    for image, stem in zip(root.iter("image"), CONTENT, strict=True):
        size_hw = int(image.get("height", 0)), int(image.get("width", 0))
        for shape, mask, (name, score, _) in zip(image, upright_masks_of(stem), CONTENT[stem], strict=True):
            left, top, width, height = (int(shape.get(side, 0)) for side in ("left", "top", "width", "height"))
            drawn = np.zeros(size_hw, np.bool_)
            drawn[top : top + height, left : left + width] = runs_to_mask(shape.get("rle", ""), (height, width))
            assert (drawn == mask).all()
            assert (shape.get("label"), float(shape.findtext("attribute") or 0)) == (
                name,
                pytest.approx(score, abs=1e-4),
            )
    assert [label["name"] for label in json.loads((tmp_path / "dest" / "labels.json").read_text())] == list(CLASSES)


def decode_brush(data: list[int]) -> NDArray[np.uint8]:
    """As Label Studio decodes: a stream of bits."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


def test_label_studio(tmp_path: Path) -> None:
    convert_set(tmp_path, "label-studio", image_url_prefix="https://host/pictures/")
    tasks = json.loads((tmp_path / "dest" / "tasks" / "000001.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [f"https://host/pictures/{stem}.jpg" for stem in CONTENT]
    for task, stem in zip(tasks, CONTENT, strict=True):
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "SAM3-demo"
        for region, mask, (name, score, _) in zip(
            prediction["result"], upright_masks_of(stem), CONTENT[stem], strict=True
        ):
            size_hw = region["original_height"], region["original_width"]
            alpha = decode_brush(region["value"]["rle"]).reshape(*size_hw, 4)[..., 3]
            assert (alpha == mask * 255).all()
            assert (region["value"]["brushlabels"], region["score"]) == ([name], score)
    config = ElementTree.parse(tmp_path / "dest" / "label-config.xml").getroot()
    assert [label.get("value") for label in config.iter("Label")] == list(CLASSES)


@pytest.mark.parametrize("mode", ["copy", "link", "none"])
def test_label_studio_finds_the_images_that_are_placed(tmp_path: Path, mode: str) -> None:
    """The default URL is below Label Studio's document root `/`; every one names a file."""
    convert_set(tmp_path, "label-studio", image_mode=mode)
    tasks = json.loads((tmp_path / "dest" / "tasks" / "000001.json").read_text())
    folder = tmp_path / ("out" if mode == "none" else "dest/images")
    urls = [task["data"]["image"] for task in tasks]
    assert urls == [f"/data/local-files/?d={str(folder)[1:]}/{stem}.jpg" for stem in CONTENT]
    assert [stem for stem in CONTENT if not (folder / f"{stem}.jpg").is_file()] == []


def test_own_colours_are_those_of_the_labels(tmp_path: Path) -> None:
    source = SyntheticSource(colours={"car": "#ff8800"})
    for name in ("cvat", "label-studio"):
        convert_set(tmp_path / name, name, source=source, rename={"car": "vehicle"})
    labels = json.loads((tmp_path / "cvat" / "dest" / "labels.json").read_text())
    assert [label.get("color") for label in labels] == ["#ff8800", None, None, None]
    root = ElementTree.parse(tmp_path / "cvat" / "dest" / "annotations.xml").getroot()
    assert {label.findtext("name"): label.findtext("color") for label in root.iter("label")}["vehicle"] == "#ff8800"
    config = ElementTree.parse(tmp_path / "label-studio" / "dest" / "label-config.xml").getroot()
    assert {label.get("value"): label.get("background") for label in config.iter("Label")}["vehicle"] == "#ff8800"


@pytest.mark.parametrize("polygons", [False, True])
def test_labelme(tmp_path: Path, polygons: bool) -> None:
    convert_set(tmp_path, "labelme", polygons=polygons, image_mode="copy")
    for stem, found in CONTENT.items():
        path = tmp_path / "dest" / f"{stem}.json"
        document = json.loads(path.read_text())
        assert (path.parent / document["imagePath"]).read_bytes() == (tmp_path / "out" / f"{stem}.jpg").read_bytes()
        drawn = [np.zeros((document["imageHeight"], document["imageWidth"]), np.bool_) for _ in found]
        for shape in document["shapes"]:
            draw_shape(drawn[shape["group_id"]], shape)
            assert (shape["label"], shape["score"]) == found[shape["group_id"]][:2]
        for mask, expected in zip(drawn, upright_masks_of(stem), strict=True):
            assert (mask == (filled(expected) if polygons else expected)).all()


def draw_shape(canvas: NDArray[np.bool_], shape: dict[str, Any]) -> None:
    if shape["shape_type"] == "polygon":
        canvas |= draw([value for point in shape["points"] for value in point], canvas.shape)  # type: ignore[arg-type]
        return
    (x0, y0), (x1, y1) = shape["points"]
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
        canvas[y0 : y1 + 1, x0 : x1 + 1] = np.asarray(image)


def test_labelme_names_an_image_that_is_not_placed_by_a_relative_path(tmp_path: Path) -> None:
    convert_set(tmp_path, "labelme")
    document = json.loads((tmp_path / "dest" / "a" / "x.json").read_text())
    assert document["imagePath"] == "../../out/a/x.jpg"


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra tables)")
    convert_set(tmp_path, "parquet")
    rows = parquet.read_table(tmp_path / "dest" / "instances.parquet").to_pylist()
    assert len(rows) == INSTANCES + 1
    assert [row["json"] for row in rows if row["class"] is None] == ["b/empty.json"]
    for stem, found in CONTENT.items():
        own = [row for row in rows if row["json"] == f"{stem}.json" and row["class"] is not None]
        for row, mask, (name, score, _) in zip(own, masks_of(stem), found, strict=True):
            rle = {"size": row["rle"]["size"], "counts": row["rle"]["counts"].encode()}
            assert (coco_mask.decode(rle).astype(bool) == mask).all()
            assert (row["class"], row["score"]) == (name, pytest.approx(score, abs=1e-7))
            assert (row["area"], row["is_whole"], row["orientation"]) == (mask.sum(), True, 6 if stem == ROTATED else 1)
