"""`convert` on outputs of real runs: what it writes, says and refuses."""

from __future__ import annotations

import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import sam3_annotate
from job.cli.main import run as run_cli
from tests.processes import annotate

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def source(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with equal base names, an image that shows nothing, and a rotated one."""
    folder = tmp_path_factory.mktemp("convert") / "in"
    pictures = sorted(scenes.rglob("*.jpg"))
    for number, key in enumerate(("yard/1", "yard/2", "gate/1", "gate/2")):
        target = folder / f"{key}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 8 if key == "gate/1" else 1
        with Image.open(pictures[number]) as image:
            shown = Image.new("RGB", image.size, (128, 128, 128)) if key == "yard/2" else image
            shown.save(target, exif=exif, quality=95)
        metadata = {"source": {"camera": key.partition("/")[0], "garage": "cen005"}, "image": {"timestamp_ms": 1}}
        target.with_suffix(".json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="module")
def output(source: Path) -> Path:
    annotate(source, source.parent / "out", "--threads", "1", "--device", "cpu").check_returncode()
    return source.parent / "out"


def convert(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run_cli(["convert", *map(str, arguments), "--log_level", "ERROR"]) == 0
    return capsys.readouterr().out


def read_coco(path: Path) -> COCO:
    with redirect_stdout(io.StringIO()):
        return COCO(str(path))


def painted(folder: Path, key: str) -> NDArray[np.uint8]:
    with np.load(folder / f"{key}.npz") as arrays:
        return np.asarray(arrays["mask"])


def labels_of(folder: Path, key: str) -> dict[str, Any]:
    labels: dict[str, Any] = json.loads((folder / f"{key}.json").read_text())["annotation"]["segmentation"][0]["labels"]
    return labels


KEYS = ("gate/1", "gate/2", "yard/1", "yard/2")


def test_coco_holds_whole_masks_that_paint_the_npz(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = convert(capsys, output, tmp_path / "coco", "--to", "coco")
    document = read_coco(tmp_path / "coco" / "instances.json")
    assert [image["file_name"] for image in document.imgs.values()] == [f"{key}.jpg" for key in KEYS]
    for number, key in enumerate(KEYS, start=1):
        annotations = document.loadAnns(document.getAnnIds(imgIds=[number]))
        canvas = np.zeros_like(painted(output, key))
        assert [canvas.shape] == [(image["height"], image["width"]) for image in document.loadImgs([number])]
        values = [value for listed in labels_of(output, key)["properties"].values() for value in listed]
        scores = [score for listed in labels_of(output, key)["confidences"].values() for score in listed]
        assert [round(annotation["score"], 3) for annotation in annotations] == scores
        for annotation, value in sorted(zip(annotations, values, strict=True), key=lambda pair: pair[1]):
            canvas[document.annToMask(annotation).astype(bool)] = value
        assert np.array_equal(canvas, painted(output, key))
    count = len(document.anns)
    assert said == f"{tmp_path}/coco: 4 images, {count} instances, 1 negatives; left out: nothing\n"


def test_visible_masks_are_those_of_the_npz(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(capsys, output, tmp_path / "coco", "--to", "coco", "--masks", "visible")
    document = read_coco(tmp_path / "coco" / "instances.json")
    for number, key in enumerate(KEYS, start=1):
        mask = painted(output, key)
        values = [value for listed in labels_of(output, key)["properties"].values() for value in listed]
        annotations = document.loadAnns(document.getAnnIds(imgIds=[number]))
        for annotation, value in zip(annotations, [value for value in values if (mask == value).any()], strict=True):
            assert np.array_equal(document.annToMask(annotation).astype(bool), mask == value)


def without_runs(output: Path, target: Path) -> Path:
    shutil.copytree(output, target)
    shutil.rmtree(target / "_sam3")
    return target


def test_without_tables_the_masks_are_the_visible_parts_and_it_says_so(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = without_runs(output, tmp_path / "bare")
    said = convert(capsys, bare, tmp_path / "coco", "--to", "coco")
    assert said.endswith("; the masks of 4 images are the visible parts: no instance table has them\n")
    document = read_coco(tmp_path / "coco" / "instances.json")
    for annotation in document.anns.values():
        key = KEYS[annotation["image_id"] - 1]
        mask = document.annToMask(annotation).astype(bool)
        (value,) = set(painted(output, key)[mask].tolist())
        assert np.array_equal(painted(output, key) == value, mask)


def test_a_folder_that_nothing_annotated_is_refused_and_the_destination_stays_empty(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its JSON files are inputs; they are no reason for a warning each."""
    assert run_cli(["convert", str(source), str(tmp_path / "dest"), "--to", "coco"]) == 2
    assert capsys.readouterr().err == (
        f"Error: none of the 4 JSON files of {source} has an annotation: give the folder that annotate wrote to\n"
    )
    assert list((tmp_path / "dest").glob("*")) == []
    assert list(sam3_annotate.open_results(source)) == []
    assert capsys.readouterr().err.endswith(
        "WARNING - 4 JSON files are left out: they have no annotation, and no NPZ lies beside them\n"
    )


def test_inputs_that_are_not_annotated_yet_are_counted(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = without_runs(output, tmp_path / "bare")
    (bare / "new.json").write_text("{}")
    assert run_cli(["convert", str(bare), str(tmp_path / "coco"), "--to", "coco"]) == 0
    said = capsys.readouterr()
    assert "; left out: 1 images (not annotated);" in said.out
    assert said.err == ""


def test_a_new_name_of_a_class_that_is_left_out_is_a_warning(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--classes", "car,person", "--rename", "car=vehicle", "--rename", "passenger=person"]
    assert run_cli(["convert", str(output), str(tmp_path / "coco"), "--to", "coco", *flags]) == 0
    assert capsys.readouterr().err.endswith(
        "--rename passenger=person has no effect: --classes, which takes the names in OUT, leaves passenger out. "
        "Add it to --classes\n"
    )


def test_a_rotated_image_is_upright_in_yolo_with_a_table_and_without(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = without_runs(output, tmp_path / "bare")
    for folder in (output, bare):
        convert(
            capsys, folder, tmp_path / f"yolo {folder.name}", "--to", "yolo", "--masks", "visible", "--task", "detect"
        )
    whole, fallback = (
        (tmp_path / f"yolo {folder.name}" / "labels/train/gate/1.txt").read_text() for folder in (output, bare)
    )
    assert whole == fallback
    assert whole
    boxes = np.array([line.split()[1:] for line in whole.splitlines()], float)
    mask = np.rot90(painted(output, "gate/1"))  # orientation 8: the upright image is a quarter turn counter-clockwise
    rows, columns = np.nonzero(mask)
    left, right = boxes[:, 0] - boxes[:, 2] / 2, boxes[:, 0] + boxes[:, 2] / 2
    top, bottom = boxes[:, 1] - boxes[:, 3] / 2, boxes[:, 1] + boxes[:, 3] / 2
    found = [
        left.min() * mask.shape[1],
        right.max() * mask.shape[1],
        top.min() * mask.shape[0],
        bottom.max() * mask.shape[0],
    ]
    assert found == pytest.approx([columns.min(), columns.max() + 1, rows.min(), rows.max() + 1], abs=0.01)


def test_a_split_and_filters_are_counted_in_the_last_line(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--split", "0.5", "--split_by", "source.camera", "--classes", "car", "--exclude", "yard/2*"]
    said = convert(capsys, output, tmp_path / "yolo", "--to", "yolo", *arguments, "-o", "json")
    line = json.loads(said)
    everything = json.loads(convert(capsys, output, tmp_path / "coco", "--to", "coco", "-o", "json"))
    assert (line["images"], sum(line["split"].values()), line["images_left_out"]) == (3, 3, {"include, exclude": 1})
    assert line["instances"] + line["instances_left_out"]["classes"] == everything["instances"]
    sides = {
        side: {path.parent.name for path in (tmp_path / "yolo/labels" / side).rglob("*.txt")} for side in line["split"]
    }
    assert sides in ({"train": {"yard"}, "val": {"gate"}}, {"train": {"gate"}, "val": {"yard"}})


def test_images_come_from_the_input_where_the_output_has_none(source: Path, tmp_path: Path, capsys: Any) -> None:
    flags = ("--threads", "1", "--device", "cpu", "--image_mode", "none", "--limit", "1")
    annotate(source, tmp_path / "out", *flags).check_returncode()
    convert(capsys, tmp_path / "out", tmp_path / "yolo", "--to", "yolo", "--images", "copy")
    (image,) = (tmp_path / "yolo" / "images").rglob("*.jpg")
    assert image.read_bytes() == (source / "gate" / "1.jpg").read_bytes()


def test_open_results_reads_the_same_instances(output: Path, tmp_path: Path) -> None:
    results = sam3_annotate.open_results(output)
    assert results.class_names == ("car", "license_plate", "person", "passenger")
    for image, key in zip(results, KEYS, strict=True):
        assert image.key == f"{key}.json"
        assert image.orientation == (8 if key == "gate/1" else 1)
        assert image.is_whole
        assert np.array_equal(image.painted, painted(output, key))
        assert image._repr_png_() is not None
    bare = sam3_annotate.open_results(str(without_runs(output, tmp_path / "bare")))
    assert [image.is_whole for image in bare] == [False] * 4


@pytest.fixture(scope="module")
def with_candidates(source: Path) -> Path:
    flags = ("--threads", "1", "--device", "cpu", "--candidates_threshold", "0.1")
    annotate(source, source.parent / "candidates", *flags).check_returncode()
    return source.parent / "candidates"


@pytest.mark.parametrize("threshold", ["0.2", pytest.param("0.7", marks=pytest.mark.slow)])
def test_another_score_gives_what_a_run_with_it_gives(
    with_candidates: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: str
) -> None:
    flags = ("--threads", "1", "--device", "cpu", "--confidence_threshold", threshold)
    annotate(source, tmp_path / "out", *flags).check_returncode()
    for masks in ("whole", "visible"):
        for folder, arguments in ((tmp_path / "out", []), (with_candidates, ["--min_score", threshold])):
            dest = tmp_path / f"{masks} {folder.name}"
            said = convert(capsys, folder, dest, "--to", "coco", "--masks", masks, *arguments)
            assert "filtered" not in said
        one, other = ((tmp_path / f"{masks} {name}" / "instances.json").read_bytes() for name in ("out", "candidates"))
        assert one == other
    stored = convert(capsys, with_candidates, tmp_path / "stored", "--to", "coco", "-o", "json")
    assert json.loads(stored)["instances"] != len(json.loads(one)["annotations"]), "the threshold changes something"


def test_without_candidates_a_score_only_filters_and_the_last_line_says_so(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = json.loads(convert(capsys, output, tmp_path / "all", "--to", "coco", "-o", "json"))
    said = convert(capsys, output, tmp_path / "low", "--to", "coco", "--min_score", "0.1")
    assert f", {everything['instances']} instances," in said
    assert said.endswith("; --min_score only filtered 4 images: their runs stored no candidates\n")


def test_a_score_below_the_candidates_is_not_exact_and_the_last_line_says_so(
    with_candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = convert(capsys, with_candidates, tmp_path / "low", "--to", "coco", "--min_score", "0.05")
    assert said.endswith(" images may lack instances: their runs stored fewer candidates than this needs\n")


def test_the_score_of_an_occupant_counts_for_passengers(
    with_candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--min_score", "person=0.999", "--min_score", "0.3", "-o", "json"]
    convert(capsys, with_candidates, tmp_path / "none", "--to", "coco", *arguments)
    document = json.loads((tmp_path / "none" / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    found = {names[annotation["category_id"]] for annotation in document["annotations"]}
    assert found == {"car", "license_plate"}


def test_a_score_of_passengers_below_that_of_persons_is_a_warning(
    with_candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (scores, is_warned) in enumerate(
        [(["passenger=0.2"], True), (["passenger=0.2", "person=0.2"], False), (["passenger=0.6"], False)]
    ):
        flags = [word for score in scores for word in ("--min_score", score)]
        assert run_cli(["convert", str(with_candidates), str(tmp_path / str(number)), "--to", "coco", *flags]) == 0
        warning = (
            "--min_score passenger=0.2 has no effect: a passenger is a person in a car, whose score must exceed 0.4"
        )
        assert (warning in capsys.readouterr().err) == is_warned


REFUSED = {
    "two scores": (
        ["--to", "coco", "--min_score", "0.5", "--min_score", "0.7"],
        "has 0.5 and 0.7 for all classes: give",
    ),
    "two new names": (["--to", "coco", "--rename", "car=a", "--rename", "car=b"], "--rename has a and b for car: give"),
    "a score of no class": (["--to", "coco", "--min_score", "=0.3"], "--min_score =0.3: give a score from 0 to 1"),
    "no class": (["--to", "coco", "--classes", ","], "--classes ',' has no name: give names with commas"),
    "no field": (["--to", "yolo", "--split", "0.9", "--split_by", ""], "--split_by '' has no name"),
    "a new name that XML cannot hold": (["--to", "cvat", "--rename", "car=a\x01"], "give the old and the new name"),
    "a flag of another format": (["--to", "coco", "--task", "detect"], "--task is for --to yolo, not for coco"),
    "a split without a share": (["--to", "yolo", "--split_by", "day"], "--split_by needs --split"),
    "an unknown field": (
        ["--to", "yolo", "--split", "0.9", "--split_by", "a.b"],
        "--split_by a.b: known are source.ca",
    ),
    "no score": (["--to", "coco", "--min_score", "car=high"], "--min_score car=high: give a score from 0 to 1"),
    "no new name": (["--to", "coco", "--rename", "car"], "--rename car: give the old and the new name of a class"),
    "an unknown class": (["--to", "coco", "--classes", "car,truck"], "--classes: OUT has no class truck; its classes"),
    "an unknown class to rename": (["--to", "coco", "--rename", "cra=a"], "--rename: OUT has no class cra"),
    "a day for all": (
        ["--to", "yolo", "--split", "0.9", "--split_by", "day"],
        "--split_by day: all images have '1970-01-01', so one side would be empty",
    ),
}


@pytest.mark.parametrize("place", ["dest", "out", "--input_top_dir"])
def test_links_to_a_bucket_are_refused_without_a_request(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """No server listens there, and there are no credentials."""
    bucket = "s3://no-such-bucket/x"
    paths = [bucket if place == "out" else str(output), bucket if place == "dest" else str(tmp_path / "dest")]
    flags = ["--input_top_dir", bucket] if place == "--input_top_dir" else []
    assert run_cli(["convert", *paths, "--to", "coco", "--images", "link", *flags]) == 2
    assert capsys.readouterr().err == f"Error: --images link: {bucket} is no local folder: use --images copy\n"


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_cli(["convert", str(output), str(tmp_path / "dest"), *arguments, "--log_level", "ERROR"]) == 2
    assert message in capsys.readouterr().err


def test_folders_that_overlap_or_hold_files_are_refused(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old").touch()
    for dest, message in (
        (output / "inside", "one lies inside the other"),
        (output.parent, "one lies inside the other"),
        (tmp_path / "full", "holds files already, such as old"),
    ):
        assert run_cli(["convert", str(output), str(dest), "--to", "coco", "--log_level", "ERROR"]) == 2
        assert message in capsys.readouterr().err
    assert run_cli(["convert", str(tmp_path / "none"), str(tmp_path / "dest"), "--to", "coco"]) == 2
    assert "has no annotations: give the folder that annotate wrote to" in capsys.readouterr().err


def test_a_missing_extra_is_named(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run_cli(["convert", str(output), str(tmp_path / "dest"), "--to", "parquet"]) == 78
    assert "this needs pyarrow, which is not installed: pip install 'sam3-annotate[tables]'" in capsys.readouterr().err
