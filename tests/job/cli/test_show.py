from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from job.cli.show import show
from job.errors import UsageError
from job.formats.mask_npz import to_npz
from job.formats.overlay import CLASS_COLOURS

FORMAT = "all_masks_on_single_array"


def entry(model_id: str = "SAM3", path: str = "x.npz", **labels: Any) -> dict[str, Any]:
    given = {"annotation_format": FORMAT, "path": path, "properties": {"car": [255]}, "confidences": {"car": [0.9]}}
    return {"annotator": {"model_id": model_id}, "labels": given | labels}


def write_json(folder: Path, *entries: Any) -> None:
    (folder / "x.json").write_text(json.dumps({"annotation": {"segmentation": list(entries)}}))


def mask_bytes(size_hw: tuple[int, int] = (60, 80)) -> bytes:
    mask = np.zeros(size_hw, np.uint8)
    mask[20:, 20:40] = 255
    return to_npz(mask)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An annotated image of 80 x 60; the current folder is another one."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (80, 60)).save(data / "x.jpg")
    (data / "x.npz").write_bytes(mask_bytes())
    write_json(data, entry())
    return data


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(show, [str(folder / "x.json"), *arguments], catch_exceptions=False)


def contour_colours(png: Path) -> set[str]:
    """Classes whose colour the lowest row of the picture has, below all labels."""
    row = np.asarray(Image.open(png))[-1].tolist()
    return {name for name, colour in CLASS_COLOURS.items() if list(colour) in row}


def test_the_picture_goes_to_the_current_folder(folder: Path) -> None:
    result = run(folder)
    assert result.output == "x.overlay.png: 1 instances\n"
    assert contour_colours(Path("x.overlay.png")) == {"car"}
    assert sorted(path.name for path in folder.iterdir()) == ["x.jpg", "x.json", "x.npz"]


def test_the_picture_goes_where_it_is_wanted(folder: Path, tmp_path: Path) -> None:
    run(folder, "--out", str(tmp_path / "wanted.png"))
    assert contour_colours(tmp_path / "wanted.png") == {"car"}


@pytest.mark.parametrize("suffix", [".jpeg", ".JPG", ".JPEG"])
def test_the_image_may_have_any_suffix_of_an_input(folder: Path, suffix: str) -> None:
    (folder / "x.jpg").rename(folder / f"x{suffix}")
    assert run(folder).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param((), {"license_plate"}, id="the last of those without a date"),
        pytest.param(("--model_id", "SAM3"), {"car"}, id="by model"),
        pytest.param(("--model_id", "other"), {"person"}, id="another's, with its own mask"),
    ],
)
def test_which_annotation_is_shown(folder: Path, arguments: tuple[str, ...], expected: set[str]) -> None:
    (folder / "y.npz").write_bytes(mask_bytes())
    write_json(
        folder,
        "no object",
        entry(),
        entry("other", "y.npz", properties={"person": [255]}, confidences=None),
        entry("SAM4", properties={"license_plate": [255]}, confidences={"license_plate": [0.5]}),
        entry("polygons", annotation_format="polygons"),
        {"annotator": {"model_id": "empty"}, "labels": None},
    )
    run(folder, *arguments)
    assert contour_colours(Path("x.overlay.png")) == expected


@pytest.mark.parametrize(
    ("dates", "shown"),
    [
        pytest.param(("2026-01-31", "2024-12-03", "2025-06-01"), "car", id="the newest, wherever it stands"),
        pytest.param(("2025-06-01", "2026-01-31", "2026-01-31"), "passenger", id="of one day the last"),
        pytest.param((None, "2024-12-03", 20260131), "person", id="dates that are none are old"),
    ],
)
def test_the_newest_annotation_is_shown(folder: Path, dates: tuple[Any, ...], shown: str) -> None:
    classes = ("car", "person", "passenger")
    write_json(
        folder,
        *(
            entry(properties={name: [255]}, confidences=None) | {"annotation_date": date}
            for name, date in zip(classes, dates, strict=True)
        ),
    )
    run(folder)
    assert contour_colours(Path("x.overlay.png")) == {shown}


def test_the_mask_of_an_older_annotation_need_not_be_there(folder: Path) -> None:
    ours, older = entry() | {"annotation_date": "2026-01-31"}, entry("older", "gone.npz")
    write_json(folder, ours, older | {"annotation_date": "2024-12-03"})
    assert run(folder).exit_code == 0


def test_an_image_without_instances_is_shown(folder: Path) -> None:
    write_json(folder, entry(properties={}, confidences={}))
    assert run(folder).output == "x.overlay.png: 0 instances\n"


def npz_of(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy_of(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def damaged(npz: bytes) -> bytes:
    middle = len(npz) // 2
    return npz[: middle - 40] + b"\xff" * 20 + npz[middle - 20 :]


@pytest.mark.parametrize(
    ("npz", "reason"),
    [
        pytest.param(b"", "is not a mask file", id="empty"),
        pytest.param(b"PK\x03\x04 cut off", "is not a mask file", id="cut off"),
        pytest.param(damaged(npz_of(mask=np.random.default_rng(1).integers(0, 9, (60, 80), np.uint8))),
                     "is not a mask file", id="damaged"),
        pytest.param(pickle.dumps({"mask": 1}), "is not a mask file", id="pickle"),
        pytest.param(npz_of(mask=np.array([None])), "is not a mask file", id="objects"),
        pytest.param(npz_of(other=np.zeros((60, 80), np.uint8)), "is not a mask file", id="other key"),
        pytest.param(npy_of(np.zeros((60, 80), np.uint8)), "is not a mask file", id="npy"),
        pytest.param(npz_of(mask=np.zeros((60, 80), np.int32)), "holds int32", id="int32"),
        pytest.param(npz_of(mask=np.zeros((60, 80, 1), np.uint8)), r"holds uint8 \(60, 80, 1\)", id="3 axes"),
        pytest.param(mask_bytes((80, 60)), "80 x 60 pixels and the mask x.npz 60 x 80: give", id="other size"),
    ],
)  # fmt: skip
def test_a_mask_that_cannot_be_used_is_refused(folder: Path, npz: bytes, reason: str) -> None:
    (folder / "x.npz").write_bytes(npz)
    with pytest.raises(UsageError, match=reason):
        run(folder)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        pytest.param({"path": None}, "does not name the mask file", id="no path"),
        pytest.param({"path": "gone.npz"}, "gone.npz cannot be read", id="mask is gone"),
        pytest.param({"path": "nul\0.npz"}, "is not a mask file", id="path with a NUL"),
        pytest.param({"properties": [255]}, "do not match", id="properties are a list"),
        pytest.param({"properties": None}, "do not match", id="no properties"),
        pytest.param({"properties": {"car": 255}}, "do not match", id="a number for a list"),
        pytest.param({"properties": {"car": [1, 2]}}, "do not match", id="a score is missing"),
        pytest.param({"properties": {"bus": [1]}}, "do not match", id="a class has no scores"),
        pytest.param({"properties": {"car": [0]}}, "do not match", id="background"),
        pytest.param({"properties": {"car": [256]}}, "do not match", id="beyond a byte"),
        pytest.param({"confidences": {"car": ["0.9"]}}, "do not match", id="score is a string"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(folder: Path, labels: dict[str, Any], reason: str) -> None:
    write_json(folder, entry(**labels))
    with pytest.raises(UsageError, match=reason):
        run(folder)


def no_image(folder: Path) -> None:
    (folder / "x.jpg").unlink()


def broken_image(folder: Path) -> None:
    (folder / "x.jpg").write_bytes(b"no image")


def cut_off_image(folder: Path) -> None:
    path = folder / "x.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def broken_json(folder: Path) -> None:
    (folder / "x.json").write_bytes(b'{"annotation": ')


def no_annotation(folder: Path) -> None:
    (folder / "x.json").write_bytes(b"{}")


def no_list(folder: Path) -> None:
    (folder / "x.json").write_bytes(b'{"annotation": {"segmentation": {}}}')


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_image, r"No image found at .*x\.json"),
        (broken_image, r"x\.jpg: image is not in a format that can be read"),
        (cut_off_image, r"x\.jpg: image cannot be decoded"),
        (broken_json, r"x\.json: JSON is broken"),
        (no_annotation, r"x\.json: it has no segmentation: give the JSON of an output folder"),
        (no_list, r"x\.json: it has no segmentation"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_files_that_cannot_be_used_are_refused(folder: Path, spoil: Callable[[Path], None], reason: str) -> None:
    spoil(folder)
    with pytest.raises(UsageError, match=reason):
        run(folder)
    assert not Path("x.overlay.png").exists()


def test_a_model_that_annotated_nothing_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="it has no segmentation of SAM9"):
        run(folder, "--model_id", "SAM9")


def test_a_target_that_cannot_be_written_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none/o\.png cannot be written: No such file or directory\. Give another"):
        run(folder, "--out", str(tmp_path / "none" / "o.png"))


def test_a_json_that_is_not_there_is_an_error_of_usage(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "does not exist" in result.output
