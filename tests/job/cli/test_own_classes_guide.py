"""The commands of docs/guides/own-classes.md, as a reader runs them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from job.cli.main import run as run_cli
from job.cli.results.convert import convert
from job.run.run import newest_run
from job.storage.local.store import LocalStore

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "own-classes.md"


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def test_the_file_and_the_commands(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in sorted(scenes.rglob("*.*"))[-8:]:
        target = tmp_path / "in" / path.relative_to(scenes)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (classes,) = blocks("yaml")
    Path("classes.yaml").write_text(classes, encoding="utf-8")
    commands = [line for block in blocks("") for line in block.splitlines()]
    assert len(commands) >= 3
    for command in commands:
        name, *words = shlex.split(command.replace("/data/", f"{tmp_path}/"))
        assert name == "sam3-annotate"
        if words[0] == "convert":
            convert.main(words[1:], standalone_mode=False)
        else:
            assert run_cli(words) == 0
    document = json.loads((tmp_path / "coco" / "instances.json").read_text())
    stored = sum(len(scores) for scores in confidences(tmp_path / "out2"))
    assert len(document["annotations"]) > stored, "instances below the threshold of the run"
    vehicle = next(one["id"] for one in document["categories"] if one["name"] == "vehicle")
    assert min(one["score"] for one in document["annotations"] if one["category_id"] == vehicle) < 0.5
    spec = newest_run(LocalStore(tmp_path / "out", "reader")).spec
    assert spec.prompts == ("car", "truck", "van", "license plate", "person")
    assert len(list((tmp_path / "out" / "_sam3" / "overlays").rglob("*.jpg"))) == 4
    Image.open(next((tmp_path / "out" / "_sam3" / "overlays").rglob("*.jpg"))).verify()
    assert newest_run(LocalStore(tmp_path / "out2", "reader")).spec.candidates_threshold == 0.1


def confidences(output: Path) -> list[list[float]]:
    entries = [
        json.loads(path.read_text())["annotation"]["segmentation"][0]
        for path in output.rglob("*.json")
        if "_sam3" not in path.parts
    ]
    return [scores for entry in entries for scores in entry["labels"]["confidences"].values()]
