"""Filters, renames, visible parts, splits, links and refusals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from job.convert.destination import Destination
from job.convert.formats.base import Categories, FormatOptions
from job.convert.formats.registry import FORMATS
from job.convert.labelled import LabelledImage
from job.convert.selection import SelectionOptions
from job.convert.splitting import Split, SplitOptions
from job.convert.thresholds import rows_at_thresholds
from job.errors import ConfigurationError, UsageError
from job.formats.instance_reader import AnnotatedImage
from job.formats.instance_table import InstanceRow, Rle
from job.formats.rle import decode_rle
from job.postprocess.instances import Instance
from job.postprocess.masks import crop_mask
from job.postprocess.painting import paint
from job.storage.local.store import LocalStore
from tests.fakes import spec_of
from tests.job.convert.synthetic import CLASSES, CONTENT, SyntheticSource, convert_set, masks_of, rows_of


def written(folder: Path) -> dict[str, list[tuple[str, float]]]:
    """Classes and scores by image."""
    document = json.loads((folder / "dest" / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    found: dict[str, list[tuple[str, float]]] = {image["file_name"]: [] for image in document["images"]}
    file_names = {image["id"]: image["file_name"] for image in document["images"]}
    for annotation in document["annotations"]:
        found[file_names[annotation["image_id"]]].append((names[annotation["category_id"]], annotation["score"]))
    return found


CASES: dict[str, tuple[dict[str, Any], dict[str, list[str]], dict[str, int]]] = {
    "a score": (
        {"min_score": 0.5},
        {"a/images/y": ["person"], "a/x": ["car"], "b/empty": [], "b/x": ["person"]},
        {"min_score": 3},
    ),
    "a score of a class": (
        {"min_score": 0.7, "min_scores": {"car": 0.4, "passenger": 0.0}},
        {"a/images/y": [], "a/x": ["car", "car"], "b/empty": [], "b/x": ["person", "passenger"]},
        {"min_score": 2},
    ),
    "classes": (
        {"classes": ("person", "license_plate")},
        {"a/images/y": ["person"], "a/x": ["license_plate"], "b/empty": [], "b/x": ["person"]},
        {"classes": 3},
    ),
    "another name": (
        {"rename": {"passenger": "person", "car": "vehicle"}},
        {
            "a/images/y": ["person"],
            "a/x": ["vehicle", "vehicle", "license_plate"],
            "b/empty": [],
            "b/x": ["person", "person"],
        },
        {},
    ),
    "an area": (
        {"min_area": 100},
        {"a/images/y": ["person"], "a/x": ["car", "car"], "b/empty": [], "b/x": ["person"]},
        {"min_area": 2},
    ),
}


@pytest.mark.parametrize(("options", "classes", "left_out"), CASES.values(), ids=CASES)
def test_what_is_left_out_is_counted(
    tmp_path: Path, options: dict[str, Any], classes: dict[str, list[str]], left_out: dict[str, int]
) -> None:
    counts = convert_set(tmp_path, "coco", **options)
    found = written(tmp_path)
    assert {key: [name for name, _ in listed] for key, listed in found.items()} == {
        f"{stem}.jpg": names for stem, names in classes.items()
    }
    assert counts.instances_left_out == left_out
    assert counts.instances + sum(left_out.values()) == sum(map(len, CONTENT.values()))
    assert counts.negatives == sum(not names for names in classes.values())


def test_a_class_keeps_its_number_when_the_order_of_the_images_changes(tmp_path: Path) -> None:
    source = SyntheticSource(classes=("car",))
    source.rows = dict(reversed(source.rows.items()))
    convert_set(tmp_path, "coco", source=source, classes=("passenger", "person"))
    document = json.loads((tmp_path / "dest" / "instances.json").read_text())
    assert [category["name"] for category in document["categories"]] == ["passenger", "person"]


@pytest.mark.parametrize(
    ("options", "keys", "left_out"),
    [
        ({"include": ("a/*",)}, ["a/images/y.jpg", "a/x.jpg"], 2),
        ({"exclude": ("*/x.json",)}, ["a/images/y.jpg", "b/empty.jpg"], 2),
        ({"include": ("*/x.json",), "exclude": ("b/*",)}, ["a/x.jpg"], 3),
    ],
)
def test_globs_of_keys(tmp_path: Path, options: dict[str, Any], keys: list[str], left_out: int) -> None:
    counts = convert_set(tmp_path, "coco", **options)
    assert list(written(tmp_path)) == keys
    assert counts.images_left_out == {"include, exclude": left_out}


@pytest.mark.parametrize(("reviewed", "keys"), [("only", ["a/x.jpg"]), ("none", ["a/images/y.jpg", "b/x.jpg"])])
def test_reviewed_images(tmp_path: Path, reviewed: str, keys: list[str]) -> None:
    """The JSON of `b/empty` does not exist: it is left out with a warning."""
    for stem in CONTENT:
        path = tmp_path / "out" / f"{stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        ours = {"labels": {"path": f"{path.stem}.npz"}, "review": {"by": "x"} if stem == "a/x" else None}
        anothers = {"labels": {"path": "other.npz"}, "review": {"by": "x"}}
        if stem != "b/empty":
            path.write_text(json.dumps({"annotation": {"segmentation": [anothers, ours]}}))
    counts = convert_set(tmp_path, "coco", reviewed=reviewed)
    assert list(written(tmp_path)) == keys
    assert counts.images_left_out == {"reviewed": 3 - len(keys), "unreadable": 1}


def test_a_split_counts_images_that_their_review_selects_alone(tmp_path: Path) -> None:
    """Of cameras of 100, 4 and 4 images only 4 of each are reviewed: one of them is the third that validates."""
    source = SyntheticSource(rows={})
    for camera, count in (("a", 100), ("b", 4), ("c", 4)):
        for number in range(count):
            key = f"{camera}/{number:03d}"
            row = msgspec.structs.replace(rows_of("b/empty")[0], json=f"{key}.json", image=f"{key}.jpg", camera=camera)
            source.rows[key] = (row,)
            path = tmp_path / "out" / f"{key}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            ours = {"labels": {"path": f"{number:03d}.npz"}, "review": {"by": "x"} if number < 4 else None}
            path.write_text(json.dumps({"annotation": {"segmentation": [ours]}}))
    split = SplitOptions(share=0.67, by=("source.camera",))
    counts = convert_set(tmp_path, "coco", source=source, split=split, reviewed="only")
    assert counts.sides == {"train": 8, "val": 4}


def test_visible_masks_are_those_of_the_painted_mask(tmp_path: Path) -> None:
    counts = convert_set(tmp_path, "coco", masks="visible")
    document = json.loads((tmp_path / "dest" / "instances.json").read_text())
    size_hw = masks_of("a/x")[0].shape
    instances = []
    for number, pixels in enumerate(masks_of("a/x")):
        mask = crop_mask(pixels, (0, 0), (size_hw[0], size_hw[1]))
        assert mask is not None
        instances.append(Instance("car", 0.5, number, mask))
    painted = paint(instances, (size_hw[0], size_hw[1]))
    own = [annotation for annotation in document["annotations"] if annotation["image_id"] == 2]
    for annotation, value in zip(own, painted.values, strict=True):
        mask = decode_rle(annotation["segmentation"]["counts"], tuple(annotation["segmentation"]["size"]))
        assert np.array_equal(mask, painted.mask == value)
        assert annotation["area"] == (painted.mask == value).sum()
    assert sum(annotation["area"] for annotation in own) < sum(mask.sum() for mask in masks_of("a/x"))
    assert counts.instances_left_out == {}


def test_an_instance_without_a_visible_pixel_is_left_out(tmp_path: Path) -> None:
    source = SyntheticSource()
    car, _, plate = source.rows["a/x"]
    covered = msgspec.structs.replace(plate, value=254)
    source.rows = {"a/x": (car, covered, plate)}
    counts = convert_set(tmp_path, "coco", source=source, masks="visible")
    assert (counts.instances, counts.instances_left_out) == (2, {"hidden": 1})


def rows(groups: dict[str, int]) -> Iterator[InstanceRow]:
    for camera, count in groups.items():
        for number in range(count):
            key = f"{camera}/{number:05d}"
            yield InstanceRow(json=f"{key}.json", image=f"{key}.jpg", width=4, height=4, camera=camera)


def sides(options: SplitOptions, groups: dict[str, int]) -> dict[str, set[str]]:
    """Cameras by side."""
    split = Split(options, (options.group_of(row) for row in rows(groups)))
    found: dict[str, set[str]] = {"train": set(), "val": set()}
    for row in rows(groups):
        found[split.side_of(row)].add(row.camera or "")
    return found


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
@pytest.mark.parametrize(
    "groups", [{"a": 500, "b": 40, "c": 60, "d": 300, "e": 100}, {"a": 9, "b": 1}, {"a": 1, "b": 9}]
)
def test_a_camera_is_on_one_side_and_both_sides_have_one(share: float, groups: dict[str, int]) -> None:
    found = sides(SplitOptions(share=share, by=("source.camera",)), groups)
    assert not found["train"] & found["val"]
    assert found["train"]
    assert found["val"]


def test_the_share_is_met_as_closely_as_many_cameras_allow() -> None:
    groups = {f"camera{number}": 10 + number % 7 for number in range(100)}
    found = sides(SplitOptions(share=0.9, by=("source.camera",)), groups)
    share = sum(groups[name] for name in found["train"]) / sum(groups.values())
    assert share == pytest.approx(0.9, abs=0.01)


def test_the_order_of_the_images_does_not_change_the_split() -> None:
    groups = {f"camera{number}": 10 + number for number in range(20)}
    options = SplitOptions(share=0.8, by=("source.camera",))
    assert sides(options, groups) == sides(options, dict(reversed(groups.items())))


def test_images_by_themselves_are_split_by_their_keys_alone() -> None:
    split = Split(SplitOptions(share=0.8))
    found = Counter(split.side_of(row) for row in rows({"a": 5000}))
    assert found["train"] / 5000 == pytest.approx(0.8, abs=0.02)


def test_a_split_of_no_images_is_empty(tmp_path: Path) -> None:
    split = SplitOptions(share=0.8, by=("source.camera",))
    counts = convert_set(tmp_path, "coco", split=split, include=("none/*",))
    assert (counts.images, counts.images_left_out) == (0, {"include, exclude": 4})


def test_one_camera_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="all images have 'a', so one side would be empty"):
        sides(SplitOptions(share=0.8, by=("source.camera",)), {"a": 10})


def test_instances_that_other_thresholds_drop_are_counted_by_reason(tmp_path: Path) -> None:
    """A candidate that comes first in the output takes the place of an instance; another score is too low."""
    car, ring, plate = SyntheticSource().rows["a/x"]
    stored = (
        msgspec.structs.replace(car, query=2),
        msgspec.structs.replace(plate, score=0.31),
        msgspec.structs.replace(ring, query=3, score=0.25),
        msgspec.structs.replace(car, query=1, score=0.35, value=None, visible_area=None, candidate="below_threshold"),
    )
    spec = spec_of(
        tmp_path, prompts=("car", "license plate", "person"), confidence_threshold=0.4, candidates_threshold=0.1
    )
    image = AnnotatedImage("a/x.json", stored, spec=spec)
    found = rows_at_thresholds(image, SelectionOptions(min_score=0.3))
    assert [(row.prompt, row.query) for row in found.rows] == [("car", 1), ("license plate", 2)]
    assert found.dropped == {"overlap": 1, "min_score": 1}


def test_a_class_that_nothing_has_is_a_warning_where_no_run_lists_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    convert_set(tmp_path / "runs", "coco", classes=("car", "cra"))
    assert caplog.messages == []
    convert_set(tmp_path / "none", "coco", source=SyntheticSource(classes=()), classes=("car", "cra"))
    assert caplog.messages == ["--classes: no instance of cra was written. Check the name"]


def test_a_class_of_a_score_or_of_a_new_name_that_nothing_has_is_a_warning_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    convert_set(
        tmp_path, "coco", source=SyntheticSource(classes=()), min_scores={"cra": 0.5}, rename={"plate": "p", "car": "c"}
    )
    assert caplog.messages == [
        "--rename: no instance of plate was written. Check the name",
        "--min_score: no instance of cra was written. Check the name",
    ]


def test_a_side_without_images_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = convert_set(tmp_path, "yolo", split=SplitOptions(share=0.9999))
    assert counts.sides == {"train": 4}
    assert caplog.messages == ["--split 0.9999: no image is in val. Give another share, or convert more images"]


@pytest.mark.parametrize("format_name", ["coco", "cvat", "parquet"])
def test_a_full_temporary_folder_is_named(tmp_path: Path, format_name: str) -> None:
    """Every write fails: the growing files are links to a device that is always full."""
    target = LocalStore(tmp_path / "dest", "tester")
    with Destination(target) as destination:
        for name in ("instances.images", "instances.annotations", "images", "instances.parquet"):
            destination.path(name).symlink_to("/dev/full")
        with pytest.raises(ConfigurationError, match=r"cannot be written \(.*No space left on device.*set TMPDIR to a"):
            write_all(destination, format_name)


def write_all(destination: Destination, format_name: Any) -> None:
    written = FORMATS[format_name](FormatOptions(destination=destination, categories=Categories(CLASSES)))
    image = LabelledImage("a.json", "a.jpg", (4, 4), 1, (), next(rows({"a": 1})))
    for _ in range(1000):
        written.add(written.encode(image))
    written.finish()


def test_days_are_groups() -> None:
    row = InstanceRow(json="a.json", image="a.jpg", width=4, height=4, timestamp_ms=1_700_000_000_000, garage="g")
    assert SplitOptions(share=0.5, by=("source.garage", "day")).group_of(row) == "g/2023-11-14"


@pytest.mark.parametrize(
    ("format_name", "files"),
    [
        ("coco", ["images/a/x.jpg", "train.json", "val.json"]),
        ("yolo", ["data.yaml", "images/val/b/x.jpg", "labels/train/a/x.txt", "labels/val/b/empty.txt"]),
        ("cvat", ["images/a/x.jpg", "labels.json", "train.xml", "val.xml"]),
        ("labelme", ["train/a/x.json", "train/a/x.jpg", "val/b/x.json"]),
    ],
)
def test_sides_have_files_of_their_own(tmp_path: Path, format_name: str, files: list[str]) -> None:
    split = SplitOptions(share=0.5, by=("source.camera",))
    counts = convert_set(tmp_path, format_name, split=split, image_mode="copy")
    assert counts.sides == {"train": 2, "val": 2}
    assert [name for name in files if not (tmp_path / "dest" / name).is_file()] == []


def test_ids_are_unique_across_the_sides(tmp_path: Path) -> None:
    convert_set(tmp_path, "coco", split=SplitOptions(share=0.5, by=("source.camera",)))
    documents = [json.loads((tmp_path / "dest" / f"{side}.json").read_text()) for side in ("train", "val")]
    for kind in ("images", "annotations"):
        ids = [item["id"] for document in documents for item in document[kind]]
        assert sorted(ids) == list(range(1, len(ids) + 1))


def test_the_destination_holds_nothing_else(tmp_path: Path) -> None:
    convert_set(tmp_path, "coco")
    assert [path.name for path in (tmp_path / "dest").iterdir()] == ["instances.json"]


def test_a_destination_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "old.txt").touch()
    with pytest.raises(UsageError, match=r"holds files already, such as old\.txt: give an empty folder"):
        convert_set(tmp_path, "coco")


def test_an_image_that_does_not_exist_is_left_out(tmp_path: Path) -> None:
    source = SyntheticSource()
    extra = InstanceRow(json="c/z.json", image="c/z.jpg", width=4, height=4)
    source.rows["c/z"] = (extra,)
    counts = convert_set(tmp_path, "yolo", source=source, image_mode="copy")
    assert (counts.images, counts.images_left_out) == (4, {"no image file": 1})
    assert not (tmp_path / "dest" / "labels/train/c/z.txt").exists()


@pytest.mark.parametrize("counts", ["", "PP", "ab0", "\u00e4"])
def test_a_damaged_mask_leaves_out_its_image(tmp_path: Path, counts: str) -> None:
    source = SyntheticSource()
    row = source.rows["a/x"][0]
    assert row.rle is not None
    source.rows["a/x"] = (msgspec.structs.replace(row, rle=Rle(row.rle.size, counts)),)
    counts = convert_set(tmp_path, "yolo", source=source)
    assert (counts.images, counts.images_left_out) == (3, {"unreadable": 1})


def test_an_empty_output_gives_empty_documents(tmp_path: Path) -> None:
    source = SyntheticSource(rows={})
    for format_name in ("coco", "yolo", "cvat", "label-studio", "labelme"):
        counts = convert_set(tmp_path / format_name, format_name, source=source)
        assert counts.images == 0
    assert written(tmp_path / "coco") == {}


def test_stored_images_can_be_read_twice() -> None:
    source = SyntheticSource()
    assert list(source.images()) == list(source.images())
