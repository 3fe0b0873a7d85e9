"""Which files are inputs: machine files, broken links, refused folders, outputs whose names meet."""

from __future__ import annotations

import errno
import logging
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from job.errors import ConfigurationError
from job.plan.output_names import fold
from job.plan.plan import PlannedInput
from job.plan.selection import Selection
from job.run.run import Run
from job.storage.keys import is_machine_file
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of, spec_of, write_inputs
from tests.processes import results


def write(folder: Path, *keys: str) -> None:
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).touch()


def selection(tmp_path: Path, **changes: Any) -> Selection:
    source = tmp_path / "in"
    run = Run(LocalStore(tmp_path / "out", "tester"), "night", spec_of(source, **changes))
    return Selection(run, LocalStore(source, "tester"))


def selected(tmp_path: Path, **changes: Any) -> list[PlannedInput]:
    return list(selection(tmp_path, **changes).inputs())


@pytest.fixture
def folding_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output's file system finds names whatever their case and Unicode form, as APFS does."""
    real = os.path.lexists

    def lexists(path: Any) -> bool:
        folder, name = os.path.split(path)
        if not str(folder).startswith(f"{tmp_path}/out/") or not os.path.isdir(folder):
            return real(path)
        return fold(name) in {fold(other) for other in os.listdir(folder)}

    monkeypatch.setattr(os.path, "lexists", lexists)


@pytest.mark.parametrize(
    ("key", "is_machine"),
    [
        ("._x.json", True),
        ("a/._x.jpg", True),
        ("__MACOSX/x.json", True),
        ("a/__MACOSX/b/x.json", True),
        ("a/.ipynb_checkpoints/x-checkpoint.json", True),
        ("a/.DS_Store", True),
        ("._folder/x.json", False),
        (".x.json", False),
        ("a._x.json", False),
        ("__MACOSX.json", False),
        ("my__MACOSX/x.json", False),
        (".DS_Store.json", False),
    ],
)
def test_files_of_macos_and_jupyter(key: str, is_machine: bool) -> None:
    assert is_machine_file(key) == is_machine


def test_machine_files_are_no_inputs_and_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "in", "a.json", "a.jpg", "._a.json", "._a.jpg", "__MACOSX/._a.json", "b/.DS_Store")
    write(tmp_path / "in", ".ipynb_checkpoints/a-checkpoint.json")
    chosen = selection(tmp_path)
    with caplog.at_level(logging.INFO):
        assert [planned.json for planned in chosen.inputs()] == ["a.json"]
    assert chosen.machine_files == 5
    assert chosen.counts.images_without_json == 0
    assert [record.getMessage() for record in caplog.records] == [
        "5 files of macOS or Jupyter (._*, .DS_Store, __MACOSX/, .ipynb_checkpoints/) are no inputs"
    ]


def test_a_broken_link_is_a_failed_input_and_no_finished_output(tmp_path: Path) -> None:
    write(tmp_path / "in", "a.jpg", "b.jpg", "b.json")
    (tmp_path / "in" / "a.json").symlink_to("a.json")
    write(tmp_path / "out", "b.jpg", "b.npz")
    (tmp_path / "out" / "b.json").symlink_to("/nowhere.json")
    first, second = selected(tmp_path)
    assert first.json == "a.json"
    assert "symbolic link that leads nowhere or to itself" in first.problem
    assert (second.json, second.problem, second.prior) == ("b.json", "", False)


def test_25_broken_links_do_not_stop_a_run(tmp_path: Path, fake_session: FakeSession) -> None:
    write_inputs(tmp_path / "in", 1)
    for number in range(25):
        (tmp_path / "in" / f"{number:02}-link.json").symlink_to("/nowhere.json")
        write(tmp_path / "in", f"{number:02}-link.jpg")
    request = request_of(tmp_path / "in", tmp_path / "out")
    tally = Tally()
    with pytest.raises(Exception, match="25 of 26 inputs failed"):
        annotate(request, tally)
    assert (tally.annotated, tally.failed) == (1, 25)


@pytest.mark.parametrize("glob", ["private/*", "private/*.json", "*", "priv*"])
def test_exclude_leaves_out_a_folder_that_may_not_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glob: str
) -> None:
    write(tmp_path / "in", "a.json", "private/x.json")
    refuse(monkeypatch, tmp_path / "in" / "private")
    kept = [] if glob == "*" else ["a.json"]
    assert [planned.json for planned in selected(tmp_path, exclude=(glob,))] == kept


@pytest.mark.parametrize("glob", ["private/x.json", "private/a*.json", "other/*", "*.jpg"])
def test_exclude_of_some_files_does_not_leave_out_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glob: str
) -> None:
    write(tmp_path / "in", "a.json", "private/x.json")
    refuse(monkeypatch, tmp_path / "in" / "private")
    with pytest.raises(ConfigurationError, match=f"folder {tmp_path}/in/private cannot be listed"):
        selected(tmp_path, exclude=(glob,))


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    real = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.usefixtures("folding_output")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("Img", "img", id="case"),
        pytest.param("Day/img", "day/img", id="folder"),
        pytest.param("e\N{COMBINING ACUTE ACCENT}", "\N{LATIN SMALL LETTER E WITH ACUTE}", id="Unicode form"),
    ],
)
def test_the_second_of_two_inputs_whose_outputs_meet_fails(
    tmp_path: Path, fake_session: FakeSession, first: str, second: str
) -> None:
    source = tmp_path / "in"
    write_inputs(source, 2)
    for number, stem in enumerate((first, second)):
        for suffix in (".jpg", ".json"):
            (source / stem).parent.mkdir(exist_ok=True)
            (source / f"{number:05}{suffix}").rename(source / f"{stem}{suffix}")
    with pytest.raises(Exception, match="1 of 2 inputs failed"):
        annotate(request_of(source, tmp_path / "out"), Tally())
    assert set(results(tmp_path / "out")) == {f"{first}{suffix}" for suffix in (".jpg", ".json", ".npz")}
    failures = next((tmp_path / "out" / "_sam3" / "runs").glob("*/failures.jsonl")).read_text()
    assert f"its outputs would overwrite those of {first}.json" in failures


@pytest.mark.usefixtures("folding_output")
def test_an_input_that_is_done_or_excluded_but_has_outputs_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "in", "Img.json", "Img.jpg", "img.json", "img.jpg")
    write(tmp_path / "out", "Img.json", "Img.jpg", "Img.npz")
    for changes in ({}, {"exclude": ("Img.json",)}):
        chosen = selection(tmp_path, **changes)
        chosen.probes_output = True
        (planned,) = chosen.inputs()
        assert planned.json == "img.json"
        assert "overwrite those of Img.json" in planned.problem


@pytest.mark.usefixtures("folding_output")
def test_an_excluded_input_without_outputs_meets_nothing(tmp_path: Path) -> None:
    write(tmp_path / "in", "Img.json", "Img.jpg", "img.json", "img.jpg")
    chosen = selection(tmp_path, exclude=("Img.json",))
    chosen.probes_output = True
    assert [(planned.json, planned.problem) for planned in chosen.inputs()] == [("img.json", "")]


def test_a_file_system_that_keeps_names_apart_takes_both(tmp_path: Path, fake_session: FakeSession) -> None:
    source = tmp_path / "in"
    write_inputs(source, 2)
    for number, stem in enumerate(("Img", "img")):
        for suffix in (".jpg", ".json"):
            (source / f"{number:05}{suffix}").rename(source / f"{stem}{suffix}")
    end = annotate(request_of(source, tmp_path / "out"), Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (2, 0)


@pytest.mark.usefixtures("folding_output")
def test_a_dry_listing_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "in", "Img.json", "img.json")
    assert len(selected(tmp_path)) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("A/b", "a/B", True),
        ("stra\N{LATIN SMALL LETTER SHARP S}e", "STRASSE", True),
        ("\N{KELVIN SIGN}", "k", True),
        ("\N{LATIN SMALL LETTER DOTLESS I}", "I", True),
        ("day./a", "day/a", True),
        ("a.", "a", False),
        ("a b", "ab", False),
        ("\udcff", "\udcfe", False),
    ],
)
def test_folding_is_as_coarse_as_any_file_system(one: str, other: str, is_same: bool) -> None:
    assert (fold(one) == fold(other)) == is_same


def test_normalization_forms_fold() -> None:
    text = "\N{ANGSTROM SIGN}\N{HANGUL SYLLABLE GAG}"
    assert len({fold(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}) == 1
