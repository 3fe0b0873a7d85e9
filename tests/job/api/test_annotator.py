"""The model on single images gives what the command stores, whatever the image is given as."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sam3_annotate
from job.errors import InputError, UsageError
from tests.processes import annotate


@pytest.fixture(scope="module")
def annotator() -> sam3_annotate.Annotator:
    return sam3_annotate.Annotator(device="cpu", threads=1)


@pytest.fixture(scope="module")
def output(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes and a rotated one, annotated by the command."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "in").mkdir()
    for number, path in enumerate(sorted(scenes.rglob("*.jpg"))[:3]):
        shutil.copy(path.with_suffix(".json"), folder / "in" / f"{number}.json")
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 2 else 1
        with Image.open(path) as image:
            image.save(folder / "in" / f"{number}.jpg", exif=exif, quality=95)
    annotate(folder / "in", folder / "out", "--threads", "1", "--device", "cpu").check_returncode()
    return folder / "out"


@pytest.mark.parametrize("name", ["0", "1", "2"])
def test_instances_are_those_that_the_command_stores(
    annotator: sam3_annotate.Annotator, output: Path, name: str
) -> None:
    found = annotator.annotate(output / f"{name}.jpg")
    labels = json.loads((output / f"{name}.json").read_text())["annotation"]["segmentation"][0]["labels"]
    with np.load(output / f"{name}.npz") as arrays:
        assert np.array_equal(found.painted, arrays["mask"])
    values: dict[str, list[int | None]] = {}
    scores: dict[str, list[float]] = {}
    for instance in found.instances:
        values.setdefault(instance.class_name, []).append(instance.value)
        scores.setdefault(instance.class_name, []).append(round(instance.score or 0, 3))
    assert (values, scores) == (labels["properties"], labels["confidences"])
    assert found.instances
    assert (found.image_key, found.class_names) == (f"{name}.jpg", ("car", "license_plate", "person", "passenger"))


def same(one: sam3_annotate.Annotation, other: sam3_annotate.Annotation) -> bool:
    return np.array_equal(one.painted, other.painted) and [a.score for a in one.instances] == [
        b.score for b in other.instances
    ]


def test_a_pillow_image_is_annotated_like_its_file(annotator: sam3_annotate.Annotator, output: Path) -> None:
    for name in ("0.jpg", "2.jpg"):
        with Image.open(output / name) as image:
            assert same(annotator.annotate(image), annotator.annotate(output / name))


def test_an_array_is_annotated_like_its_file(annotator: sam3_annotate.Annotator, output: Path) -> None:
    with Image.open(output / "0.jpg") as image:
        assert same(annotator.annotate(np.asarray(image)), annotator.annotate(str(output / "0.jpg")))


def test_other_classes_and_another_threshold(output: Path) -> None:
    annotator = sam3_annotate.Annotator(classes=["person"], device="cpu", threshold=0.05)
    assert annotator.class_names == ("person",)
    assert {one.class_name for one in annotator.annotate(output / "0.jpg").instances} <= {"person"}


def test_a_file_of_classes(output: Path, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("classes: [{name: vehicle, prompts: [car, truck]}, {name: person}]\noverlap: {keep: best}\n")
    annotator = sam3_annotate.Annotator(classes=path, device="cpu")
    assert annotator.class_names == ("vehicle", "person")
    found = annotator.annotate(output / "0.jpg").instances
    assert {one.class_name for one in found} <= {"vehicle", "person"}
    assert {one.prompt for one in found} <= {"car", "truck", "person"}
    assert found


@pytest.mark.parametrize("classes", [[], [""], ["car;bus"], ["car", "Car"], ["passenger"], "missing.yaml"])
def test_classes_that_are_refused(classes: list[str] | str) -> None:
    with pytest.raises(UsageError, match="classes"):
        sam3_annotate.Annotator(classes=classes, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device='gpu': give 'cuda' or 'cpu'"),
        ({"device": "cuda:0"}, "device='cuda:0': give 'cuda' or 'cpu'"),
        ({"threshold": 1.5}, "threshold=1.5: give a number from 0 to 1"),
        ({"threshold": "0.4"}, "threshold='0.4': give a number from 0 to 1"),
        ({"threads": 0}, "threads=0: give a number from 1"),
        ({"classes": ["car", 3]}, "classes: 3 is not a prompt"),
        ({"classes": ["car,person"]}, "classes: 'car,person' is not a prompt: give texts without commas"),
        ({"classes": "car"}, r"no such file\. classes='car' is the path of a file of classes; prompts are a list"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sam3_annotate.Annotator(**({"device": "cpu"} | options))


def test_what_is_no_image_is_refused(annotator: sam3_annotate.Annotator, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(InputError, match="is not in a format that can be read"):
        annotator.annotate(tmp_path / "text.jpg")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        annotator.annotate(tmp_path / "none.jpg")
    with pytest.raises(UsageError, match=r"float64 \(4, 4, 3\): give uint8"):
        annotator.annotate(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"the image is \(0, 5, 3\): it has no pixel"):
        annotator.annotate(np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(UsageError, match="the image is a int: give a path"):
        annotator.annotate(5)  # type: ignore[arg-type]


def test_the_library_loads_neither_torch_nor_a_runtime_before_it_is_used() -> None:
    code = "import sys, sam3_annotate; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(completed.stdout.split())
    assert "job" in loaded
    assert not loaded & {"torch", "onnxruntime", "export", "k8s", "pandas", "supervision", "pyarrow", "s3fs"}
