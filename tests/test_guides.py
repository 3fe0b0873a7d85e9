"""The guides' own commands and programs run; those that need other programs are in tests/packaging."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from job.cli.main import run as run_cli
from tests.guides import GUIDES, blocks, commands, moved
from tests.processes import annotate


@pytest.fixture(scope="module")
def data(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `/data` holds: `out` with four scenes, in it the image that the guide for Python names."""
    folder = tmp_path_factory.mktemp("guides")
    for number, path in enumerate(sorted(scenes.rglob("*.jpg"))[:4]):
        camera = f"entry{1 + number % 2}"
        target = folder / "in" / "cen005" / camera / f"image{1 + number // 2}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        target.with_suffix(".json").write_text(json.dumps({"source": {"camera": camera}}), encoding="utf-8")
    annotate(folder / "in", folder / "out", "--device", "cpu").check_returncode()
    return folder


OWN = {"train-yolo.md": 1, "review-elsewhere.md": 3}


@pytest.mark.parametrize(("page", "count"), OWN.items(), ids=OWN)
def test_the_conversions_of_a_guide(data: Path, page: str, count: int) -> None:
    ran = 0
    for command in commands(page, data):
        if command.startswith("sam3-annotate "):
            assert run_cli(shlex.split(command)[1:]) == 0, command
            ran += 1
        elif "zipfile" in command:
            subprocess.run(command, shell=True, check=True)
            with zipfile.ZipFile(data / "cvat" / "images.zip") as archive:
                packed = {name for name in archive.namelist() if name.endswith(".jpg")}
            assert packed == {f"cen005/entry{camera}/image{number}.jpg" for camera in (1, 2) for number in (1, 2)}
        else:
            assert command.startswith(("yolo ", "pip ")), "tests/packaging/foreign_readers.py runs these"
    assert ran == count


def test_files_that_a_guide_names_exist(data: Path) -> None:
    """Runs after the conversions; alone, it converts itself."""
    if not (data / "cvat").exists():
        for page, count in OWN.items():
            test_the_conversions_of_a_guide(data, page, count)
    names = ("yolo/data.yaml", "cvat/annotations.xml", "cvat/labels.json", "label-studio/label-config.xml")
    assert [name for name in names if not (data / name).is_file()] == []
    (tasks,) = (data / "label-studio" / "tasks").iterdir()
    urls = [task["data"]["image"] for task in json.loads(tasks.read_text())]
    assert urls[0] == "/data/local-files/?d=out/cen005/entry1/image1.jpg"


def test_the_programs_of_the_guide_for_python(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    found = blocks("python.md", "python")
    assert len(found) == 2
    for block in found:
        exec(compile(moved(block, data), "python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "('car', 'license_plate', 'person', 'passenger')" in said
    assert len(names["image"].instances) > 0


def test_the_notebook(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs; nothing is stored in it that a run would change."""
    notebook = json.loads((GUIDES / "python.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build" / "demo").mkdir(parents=True)
    (tmp_path / "build" / "demo" / "output").symlink_to(data / "out")
    names: dict[str, Any] = {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6
    for number, cell in enumerate(cells, start=1):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        exec(compile(cell["source"], f"cell {number}", "exec"), names)
    assert names["image"]._repr_png_() is not None
