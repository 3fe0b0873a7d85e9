"""Mistakes of users give one error line, the documented exit code and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from job.cli.main import run as run_cli
from tests.processes import annotate, frozen, results

WITHOUT_ROOTS_RIGHT_TO_READ = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk or to give up rights")


@dataclass(frozen=True)
class Mistake:
    """Flags for a valid input (`{input}`) and output (`{output}`), the exit code and the error line."""

    flags: tuple[str, ...]
    code: int
    answer: str


FLAG_MISTAKES = {
    "a flag that does not exist": Mistake(
        ("--overide_previous_annotations",),
        2,
        "Error: No such option '--overide_previous_annotations'. Did you mean '--override_previous_annotations'?",
    ),
    "a prompt twice": Mistake(
        ("--prompts", "car,person,car"),
        2,
        "Error: --prompts 'car,person,car' names car twice (case does not count): give each class once. A file of "
        "classes takes several prompts of one class",
    ),
    "an empty prompt": Mistake(
        ("--prompts", "car,,person"),
        2,
        "Error: --prompts 'car,,person' has an empty prompt: give names with commas between them",
    ),
    "passenger as a prompt": Mistake(
        ("--prompts", "car,passenger"),
        2,
        "Error: --prompts 'car,passenger': passenger is not a prompt, it is what a person in a car becomes. "
        "Give car and person",
    ),
    "a model folder without a model": Mistake(
        ("--model", "{input}"),
        78,
        "Error: no model at {input}: it has no manifest.json. Give the folder that `sam3-annotate export` wrote",
    ),
    "cuda on a machine without": Mistake(
        ("--device", "cuda"),
        78,
        "Error: --device cuda: this installation of onnxruntime has AzureExecutionProvider, CPUExecutionProvider only. "
        "Install the GPU build (pip uninstall onnxruntime, then pip install 'sam3-annotate[gpu]'), "
        "or give --device cpu",
    ),
    "a date that is none": Mistake(
        ("--annotation_date", "31.1.2026"),
        2,
        "Error: --annotation_date '31.1.2026' is not a date: give it as YYYY-MM-DD",
    ),
    "a bucket without the driver": Mistake(
        ("--out_top_dir", "gs://bucket/out"),
        2,
        "Error: gs://bucket/out: storage of kind 'gs' needs gcsfs, which is not installed",
    ),
    "a threshold out of range": Mistake(
        ("--confidence_threshold", "40"),
        2,
        "Error: Invalid value for '--confidence_threshold': 40.0 is not in the range 0<=x<=1.",
    ),
}


@pytest.fixture
def one_scene(scenes: Path, tmp_path: Path) -> Path:
    """A folder with one scene that may be spoilt."""
    json_file = sorted(scenes.rglob("*.json"))[0]
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (json_file, json_file.with_suffix(".jpg")):
        shutil.copy(name, folder)
    return folder


def errors(completed: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in completed.stderr
    return [line for line in completed.stderr.splitlines() if line.startswith("Error: ")]


@pytest.mark.parametrize("mistake", FLAG_MISTAKES.values(), ids=FLAG_MISTAKES)
def test_invalid_flag_gives_one_error_line(mistake: Mistake, one_scene: Path, tmp_path: Path) -> None:
    flags = [flag.format(input=one_scene) for flag in mistake.flags]
    completed = annotate(one_scene, tmp_path / "out", *flags)
    assert errors(completed) == [mistake.answer.format(input=one_scene)]
    assert completed.returncode == mistake.code
    assert not list((tmp_path / "out").rglob("run.json")), "no run is begun"


def test_no_such_input_folder(tmp_path: Path) -> None:
    completed = annotate(tmp_path / "nowhere", tmp_path / "out")
    assert errors(completed) == [
        f"Error: no such input folder: {tmp_path}/nowhere. Give the folder with the JSON and image files"
    ]
    assert completed.returncode == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", [".", "results", ".."], ids=["the input itself", "inside it", "around it"])
def test_an_output_that_overlaps_the_input(path: str, one_scene: Path) -> None:
    completed = annotate(one_scene, one_scene / path)
    assert completed.returncode == 2
    assert len(errors(completed)) == 1
    assert "give an output folder outside of the input" in completed.stderr
    assert sorted(path.suffix for path in one_scene.iterdir()) == [".jpg", ".json"], "nothing was written"


def test_a_model_that_is_not_the_one_pinned(one_scene: Path, tmp_path: Path) -> None:
    completed = annotate(one_scene, tmp_path / "out", "--model_digest", "0" * 64)
    assert completed.returncode == 78
    assert "but --model_digest asks for" in errors(completed)[0]


@is_root
def test_a_disk_that_is_full(scenes: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", disk], check=True)
    try:
        completed = annotate(scenes, disk / "out")
        whole = results(disk / "out")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert completed.returncode == 75
    (message,) = errors(completed)
    assert message.startswith(f"Error: {disk}/out/")
    assert message.endswith(": no space left: free some, then rerun the same command to resume")
    stems = {name.rpartition(".")[0] for name in whole if name.endswith(".json")}
    assert all({f"{stem}.jpg", f"{stem}.npz"} <= set(whole) for stem in stems), "every commit mark is true"


@is_root
def test_an_output_that_may_not_be_written(one_scene: Path) -> None:
    completed = annotate(one_scene, "/proc/out")
    assert completed.returncode == 78
    assert errors(completed)[0].startswith("Error: output /proc/out cannot be written")


SPOILERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no image": (lambda json_file: json_file.with_suffix(".jpg").unlink(), "No image found at {json}"),
    "a truncated image": (
        lambda json_file: json_file.with_suffix(".jpg").write_bytes(json_file.with_suffix(".jpg").read_bytes()[:4000]),
        "image cannot be decoded: image file is truncated",
    ),
    "an image that is none": (
        lambda json_file: json_file.with_suffix(".jpg").write_text("not an image"),
        "image is not in a format that can be read",
    ),
    "a broken JSON": (lambda json_file: json_file.write_text('{"image": '), "JSON is broken: Expecting value"),
    "a JSON that is a list": (lambda json_file: json_file.write_text("[]"), "JSON is not an object but an array"),
    "a JSON with NaN": (lambda json_file: json_file.write_text('{"a": NaN}'), "JSON has NaN"),
    "a JSON with a key twice": (
        lambda json_file: json_file.write_text('{"a": 1, "a": 2}'),
        "JSON has the key 'a' twice in one object",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILERS.values(), ids=SPOILERS)
def test_unusable_input_is_one_failed_row(
    spoil: Callable[[Path], object], reason: str, one_scene: Path, tmp_path: Path
) -> None:
    json_file = next(one_scene.glob("*.json"))
    spoil(json_file)
    completed = annotate(one_scene, tmp_path / "out")
    assert completed.returncode == 65
    expected = reason.format(json=json_file)
    warning = expected if str(json_file) in expected else f"{json_file}: {expected}"
    assert any(line.startswith(f"WARNING - {warning}") for line in frozen(completed.stderr).splitlines())
    assert "Failed: 1" in completed.stderr
    assert errors(completed) == [
        "Error: 1 of 1 inputs failed, more than --max_failed_fraction allows: "
        f"see {next((tmp_path / 'out').rglob('failures.jsonl'))}"
    ]
    row = json.loads(next((tmp_path / "out").rglob("failures.jsonl")).read_text())
    assert row["json"] == json_file.name
    assert results(tmp_path / "out") == {}


@is_root
def test_file_without_read_permission_is_one_failed_row(scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(scenes, folder)
    images = sorted(folder.rglob("*.jpg"))
    images[0].chmod(0)
    completed = annotate(folder, tmp_path / "out", "--max_failed_fraction", "0.2", wrapper=WITHOUT_ROOTS_RIGHT_TO_READ)
    assert completed.returncode == 0, completed.stderr
    assert f"WARNING - {images[0].with_suffix('.json')}: {images[0]}: permission denied" in completed.stderr
    assert "Failed: 1" in completed.stderr


def test_folder_without_json_gives_a_warning_and_exit_0(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    completed = annotate(tmp_path / "in", tmp_path / "out")
    assert completed.returncode == 0
    assert f"WARNING - No JSON files found in {tmp_path}/in" in completed.stderr


def test_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("job.cli.commands.entry_points", lambda group: ())
    for arguments in (["--help"], ["annotate"]):
        assert run_cli(arguments) == 78
        assert "sam3-annotate is not installed for " in capsys.readouterr().err
