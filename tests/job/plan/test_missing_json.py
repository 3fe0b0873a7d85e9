"""Images without a JSON: counted in one line, or inputs with `--missing_json create`."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from job.cli.main import run as run_cli
from job.plan.input_list import open_input_list
from job.run.run import newest_run
from job.storage.local.store import LocalStore
from job.storage.open import Address
from job.telemetry.progress_bar import Tally
from job.tools.audit import AuditCounts, Finding
from job.tools.audit_deep import audit
from job.worker.runner import annotate, list_planned
from tests.fakes import FakeSession, request_of, write_inputs


@pytest.fixture
def source(tmp_path: Path, fake_session: FakeSession) -> Path:
    """Five images, of which `00001` and `00003` have no JSON."""
    write_inputs(tmp_path / "in", 5)
    for stem in ("00001", "00003"):
        (tmp_path / "in" / f"{stem}.json").unlink()
    return tmp_path / "in"


def findings(source: Path, target: Path) -> list[Finding]:
    store = LocalStore(target, "auditor")
    counts = AuditCounts()
    return list(audit(LocalStore(source, "auditor"), store, newest_run(store).spec, counts, deep=True))


def test_every_image_gets_a_minimal_json(source: Path, tmp_path: Path) -> None:
    (source / "day").mkdir()
    Image.new("RGB", (40, 30)).save(source / "day" / "x.JPG", exif=oriented(6))
    end = annotate(request_of(source, tmp_path / "out", missing_json="create"), Tally())
    assert end is not None
    assert (end.inputs_listed, end.annotated) == (6, 6)
    created = json.loads((tmp_path / "out" / "day" / "x.json").read_text())
    assert created["image"] == {"dimensions": {"width": 40, "height": 30}}, "the raster as stored"
    assert created["source"] == {"source_type": "file", "file_name": "x.JPG"}
    assert created["annotation"]["segmentation"][0]["labels"]["properties"] == {"car": [255]}
    kept = json.loads((tmp_path / "out" / "00000.json").read_text())
    assert kept["source"] == {"camera": "entry1"}
    assert findings(source, tmp_path / "out") == []


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_a_second_run_skips_what_is_done(source: Path, tmp_path: Path, fake_session: FakeSession) -> None:
    annotate(request_of(source, tmp_path / "out", missing_json="create", limit=2), Tally())
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["00000.json", "00001.json"]
    again = request_of(source, tmp_path / "out", missing_json="create")
    assert list(list_planned(again)) == ["00002.json", "00003.json", "00004.json"]
    annotate(again, Tally())
    assert fake_session.images == 5


def test_without_it_they_are_no_inputs_and_counted_once(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--input_top_dir", str(source), "--out_top_dir", str(tmp_path / "out"), "--log_level", "DEBUG"]
    assert run_cli(flags) == 0
    lines = [line.partition(" - ")[2] for line in capsys.readouterr().err.splitlines() if "JSON" in line]
    assert lines == [
        "INFO - Found 3 JSON files to process",
        "INFO - 2 images have no JSON and are no inputs (--missing_json create)",
        "INFO - Images without a JSON: 2 (no inputs: --missing_json create takes them)",
    ]
    shutil.rmtree(tmp_path / "out")
    assert run_cli([*flags, "--missing-json", "create"]) == 0
    shown = capsys.readouterr().err
    assert "INFO - 2 of the inputs are images without a JSON: each gets a minimal one" in shown
    assert "INFO - Images without a JSON: 2 (inputs)" in shown


def test_a_listed_key_may_name_an_image_without_a_json(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("00001.json\n00002.json\nnothing.json\n")
    keys = open_input_list(str(path), None, Address(str(source)), str(source))
    request = request_of(source, tmp_path / "out", missing_json="create", input_list_sha256=keys.sha256)
    request = replace(request, input_list=keys, options=replace(request.options, max_failed_fraction=1.0))
    end = annotate(request, Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (2, 1)
    assert "file_name" in (tmp_path / "out" / "00001.json").read_text()


def test_globs_select_among_them_too(source: Path, tmp_path: Path) -> None:
    tally = Tally()
    request = request_of(source, tmp_path / "out", missing_json="create", include=("*3.json", "*4.json"))
    annotate(request, tally)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["00003.json", "00004.json"]
    assert tally.without_json == 1


def test_an_image_that_cannot_be_read_is_a_failed_input(source: Path, tmp_path: Path) -> None:
    (source / "00001.jpg").write_bytes(b"no picture")
    request = request_of(source, tmp_path / "out", missing_json="create")
    end = annotate(replace(request, options=replace(request.options, max_failed_fraction=1.0)), Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (4, 1)


def test_the_audit_knows_them(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    annotate(request_of(source, target, missing_json="create"), Tally())
    (target / "00001.npz").unlink()
    shutil.copy(source / "00003.jpg", source / "new.jpg")
    assert [(found.kind, found.key) for found in findings(source, target)] == [
        ("torn", "00001.json"),
        ("missing", "new.json"),
    ]
    annotate(request_of(source, target), Tally())
    assert [(found.kind, found.key) for found in findings(source, target)] == [("torn", "00001.json")], (
        "the newer run takes no images without a JSON: what an earlier one has created stays an input"
    )


def test_pictures_of_other_formats_are_counted(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (source / "a.png").touch()
    (source / "b.WEBP").touch()
    with caplog.at_level(logging.INFO):
        annotate(request_of(source, tmp_path / "out", missing_json="create"), Tally())
    assert "2 pictures of other formats are no inputs: only .jpg and .jpeg are read" in caplog.text


@pytest.mark.parametrize("missing_json", ["skip", "create"])
def test_a_folder_of_other_formats_alone_is_a_warning_that_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, missing_json: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    (tmp_path / "in" / "b.WEBP").touch()
    annotate(request_of(tmp_path / "in", tmp_path / "out", missing_json=missing_json), Tally())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "2 pictures of other formats are no inputs: only .jpg and .jpeg are read. Convert them to JPEG",
        f"No JSON files found in {tmp_path}/in",
        "No .jpg or .jpeg images were found either: check the folder or prefix, --include and --exclude",
    ]


def test_a_second_image_of_a_name_is_a_warning(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(source / "00003.jpg", source / "00003.jpeg")
    annotate(request_of(source, tmp_path / "out", missing_json="create"), Tally())
    assert "1 images are no inputs: another image has the same name with another suffix" in caplog.text
