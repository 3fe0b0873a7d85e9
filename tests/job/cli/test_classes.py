"""`--prompts` and `--classes`: what is refused before a run begins, and what a run does with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from job.cli.main import run as run_cli
from job.errors import UsageError
from job.rules.requested import parse_prompts
from job.run.run import newest_run
from job.storage.local.store import LocalStore
from tests.fakes import FakeSession, write_inputs
from tests.processes import results

LONG = "a very long prompt about " + " and ".join(f"{number} red cars" for number in range(9))
DEFAULTS = "classes: [{name: car}, {name: license_plate, prompts: [license plate]}, {name: person}]\n"


@pytest.fixture
def flags(tmp_path: Path, fake_session: FakeSession) -> list[str]:
    write_inputs(tmp_path / "in", 2)
    return ["--input_top_dir", str(tmp_path / "in"), "--out_top_dir", str(tmp_path / "out")]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return tmp_path / "my.yaml"


@pytest.mark.parametrize(
    ("texts", "prompts"),
    [
        (["car,license plate"], ("car", "license plate")),
        (["car", "license  plate", "person,dog"], ("car", "license plate", "person", "dog")),
    ],
)
def test_prompts_may_be_repeated(texts: list[str], prompts: tuple[str, ...]) -> None:
    assert parse_prompts(texts) == prompts


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["car,"], "has an empty prompt"),
        ([""], "has an empty prompt"),
        (["car", "car"], "names car twice"),
        (["Car,car"], "names car twice (case does not count)"),
        (["car\x01"], "has a control character: use printable ones"),
        (["car;person"], "has a semicolon: give names with commas between them"),
        (["car,Passenger"], "passenger is not a prompt"),
    ],
)
def test_prompts_that_are_refused(texts: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        parse_prompts(texts)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("classes:\n  - name: car\n  - name: car\n", r"line 3: class car repeats class car"),
        (
            f"classes:\n  - name: car\n    prompts:\n      - {LONG}\n",
            r"line 4: the prompt .* has 42 tokens .* takes 32",
        ),
    ],
    ids=["repeated", "too long"],
)
def test_a_mistake_in_the_file_is_2_and_begins_no_run(
    flags: list[str], classes: Path, text: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    classes.write_text(text)
    assert run_cli([*flags, "--classes", str(classes)]) == 2
    assert re.search(rf"Error: --classes {classes}, {problem}", capsys.readouterr().err)
    assert not (classes.parent / "out").exists()


def test_a_prompt_that_is_too_long_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli([*flags, "--prompts", LONG]) == 2
    assert re.search(r"Error: --prompts: the prompt .* has 42 tokens with start and end", capsys.readouterr().err)


def test_both_flags_are_refused(flags: list[str], classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes.write_text(DEFAULTS)
    assert run_cli([*flags, "--classes", str(classes), "--prompts", "car"]) == 2
    assert "--classes and --prompts: the file names all prompts. Give one of the two" in capsys.readouterr().err


@pytest.mark.parametrize("as_file", [False, True], ids=["prompts", "file"])
@pytest.mark.parametrize(
    ("names", "warned"), [(["Car", "person"], True), (["car", "PERSON"], True), (["car", "person"], False)]
)
def test_names_that_differ_by_case_switch_the_passenger_rule_off_with_a_warning(
    flags: list[str], classes: Path, as_file: bool, names: list[str], warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    classes.write_text(json.dumps({"classes": [{"name": name} for name in names]}))
    asked = ["--classes", str(classes)] if as_file else ["--prompts", ",".join(names)]
    assert run_cli([*flags, *asked, "--dry_run"]) == 0
    assert ("only by case: the passenger rule is off" in capsys.readouterr().err) is warned


def test_the_file_is_pinned_by_its_digest(
    flags: list[str], classes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    classes.write_text(DEFAULTS)
    named = [*flags, "--run", "night", "--classes", str(classes)]
    assert run_cli(named) == 0
    assert run_cli(named) == 0
    spec = newest_run(LocalStore(tmp_path / "out", "reader")).spec
    assert spec.classes is not None
    assert spec.classes == spec.rules
    classes.write_text(DEFAULTS + "overlap: {keep: best}\n")
    assert run_cli(named) == 78
    assert f"classes_sha256: the run has '{spec.classes_sha256}', asked for is '" in capsys.readouterr().err


def test_the_defaults_as_a_file_give_the_same_bytes(
    scenes: Path, quiet_run: Path, classes: Path, tmp_path: Path
) -> None:
    rules = (
        "passengers: {occupant: person, container: car, name: passenger}\n"
        "overlap: {max_iou: 0.5, keep: first, across: all}\n"
    )
    classes.write_text(DEFAULTS + rules)
    target = tmp_path / "out"
    folders = ["--input_top_dir", str(scenes), "--out_top_dir", str(target), "--annotation_date", "2026-01-31"]
    assert run_cli([*folders, "--classes", str(classes)]) == 0
    assert results(target) == results(quiet_run)


def test_own_names_thresholds_and_passengers(scenes: Path, quiet_run: Path, classes: Path, tmp_path: Path) -> None:
    classes.write_text(
        "classes:\n"
        "  - {name: vehicle, prompts: [car], min_score: 0.5}\n"
        "  - {name: human, prompts: [person]}\n"
        "passengers: {occupant: human, container: vehicle, name: occupant}\n"
    )
    folders = ["--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / "out")]
    assert run_cli([*folders, "--classes", str(classes), "--threads", "1"]) == 0
    entries, before = annotations(tmp_path / "out"), annotations(quiet_run)
    assert {tuple(entry["considered_classes"]) for entry in entries} == {("vehicle", "human", "occupant")}
    assert sum(len(scores_of(entry, "vehicle")) for entry in entries) > 5
    assert all(score >= 0.5 for entry in entries for score in scores_of(entry, "vehicle"))
    assert scores(entries, "vehicle") == [score for score in scores(before, "car") if score > 0.5]
    assert len(scores(entries, "occupant")) == len(scores(before, "passenger")) > 0


def annotations(folder: Path) -> list[dict[str, object]]:
    entries = [json.loads(path.read_text())["annotation"]["segmentation"][0] for path in sorted(folder.rglob("*.json"))
               if "_sam3" not in path.parts]  # fmt: skip
    assert len(entries) == 10
    return entries


def scores_of(entry: dict[str, object], name: str) -> list[float]:
    labels = entry["labels"]
    assert isinstance(labels, dict)
    return list(labels["confidences"].get(name, []))


def scores(entries: list[dict[str, object]], name: str) -> list[float]:
    return [score for entry in entries for score in scores_of(entry, name)]


def test_several_prompts_of_one_class_are_merged_by_the_overlap_rule(
    scenes: Path, classes: Path, tmp_path: Path
) -> None:
    """Both prompts find the same vehicles: each is one instance, the better one."""
    classes.write_text("classes:\n  - {name: vehicle, prompts: [car, vehicle]}\noverlap: {keep: best}\n")
    folders = ["--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / "out")]
    assert run_cli([*folders, "--classes", str(classes), "--limit", "5"]) == 0
    rows = [
        json.loads(line)
        for path in (tmp_path / "out" / "_sam3").rglob("journal/*/*.jsonl")
        for line in path.read_text().splitlines()
        if '"result":"annotated"' in line
    ]
    assert sum(row.get("dropped", {}).get("overlap", 0) for row in rows) > 2


def test_overlays_have_the_colours_of_the_file(flags: list[str], classes: Path, tmp_path: Path) -> None:
    classes.write_text('classes:\n  - {name: car, colour: "#12ff34"}\n  - name: license_plate\n  - name: person\n')
    asked = ["--classes", str(classes), "--visualize", "1", "--overlay_format", "png"]
    assert run_cli([*flags, *asked]) == 0
    with Image.open(tmp_path / "out" / "_sam3" / "overlays" / "00000.png") as overlay:
        pixels = np.asarray(overlay.convert("RGB")).reshape(-1, 3)
    assert (pixels == (0x12, 0xFF, 0x34)).all(axis=1).any()
