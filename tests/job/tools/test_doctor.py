"""`doctor`: every fault is reported with its exit code, and no file remains."""

from __future__ import annotations

import errno
import os
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from job.cli.main import run as run_cli
from job.errors import AnnotateError, DeviceError, ObjectRefusedError, StorageError, UsageError
from job.model.artifact import open_artifact
from job.storage.generic import FsspecDriver
from job.storage.listing.pages import Page
from job.storage.local.store import LocalStore
from job.storage.object_store import ObjectStore
from job.storage.store import Guard, StoredObject
from job.telemetry.progress_bar import Tally
from job.tools.doctor import examine
from job.worker.runner import annotate
from tests.fakes import DEMO_ARTIFACT, FakeSession, request_of, write_inputs

NAMES = ("output", "exclusive create", "file system", "clock", "input", "model", "one image")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "in", 3)
    return tmp_path / "in"


def diagnosis(source: Path, target: Path) -> tuple[list[str], AnnotateError | None]:
    """Details of the checks that passed, and the first error."""
    checks = list(examine(request_of(source, target)))
    assert [check.name for check in checks] == list(NAMES[: len(checks)])
    assert all(check.error is None for check in checks[:-1])
    return [check.detail for check in checks if check.error is None], checks[-1].error


def flags(source: Path, target: Path) -> list[str]:
    return ["doctor", "--input_top_dir", str(source), "--out_top_dir", str(target), "--device", "cpu"]


def test_a_healthy_setup_with_the_real_model(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(flags(source, tmp_path / "fresh")) == 0
    said = capsys.readouterr().out
    assert "✓ file system: names that differ in case or Unicode form are different files" in said
    assert [line[:2] for line in said.splitlines()] == ["✓ "] * len(NAMES)
    assert "00000.json: 0 instances in" in said
    assert list((tmp_path / "fresh").rglob("*")) == []


def test_doctor_names_what_a_file_system_lacks(
    source: Path, tmp_path: Path, fake_session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(os, "fsync", fail)
    said, error = diagnosis(source, tmp_path / "out")
    assert error is None
    found = said[NAMES.index("file system")]
    assert "; no hard links: files are created by an exclusive rename; no fsync of files: a power cut may lose" in found


def test_an_output_in_use_is_left_as_it_was(source: Path, tmp_path: Path, fake_session: FakeSession) -> None:
    request = request_of(source, tmp_path / "out")
    annotate(request, Tally())
    request.target.close()
    before = sorted((tmp_path / "out").rglob("*"))
    assert run_cli(flags(source, tmp_path / "out")) == 0
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_an_output_that_refuses_is_a_wrong_configuration(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: LocalStore, key: str, data: bytes, guard: Guard | None = None) -> None:
        raise ObjectRefusedError(f"{key}: permission denied")

    monkeypatch.setattr(LocalStore, "put", refuse)
    assert run_cli(flags(source, tmp_path / "out")) == 78
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "✗ output"
    assert "cannot be written" in said.err


@pytest.mark.parametrize("kept", [slice(1, None), slice(None, None, -1)], ids=["late", "out of order"])
def test_a_stale_or_unordered_listing_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: slice
) -> None:
    original = LocalStore.list

    def lag(self: LocalStore, prefix: str = "", **options: Any) -> Iterator[StoredObject]:
        found = list(original(self, prefix, **options))
        return iter(found[kept] if "doctor" in prefix else found)

    monkeypatch.setattr(LocalStore, "list", lag)
    _, error = diagnosis(source, tmp_path / "out")
    assert error is not None
    assert error.exit_code == 78
    assert "does not list new objects at once and in order" in str(error)


def test_a_create_that_overwrites_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A create that reports one winner and stores the bytes of another."""
    lock, told = threading.Lock(), set[str]()
    original = LocalStore.put

    def overwrite(self: LocalStore, key: str, data: bytes) -> bool:
        with lock:
            original(self, key, data)
            is_first = key not in told
            told.add(key)
            return is_first

    monkeypatch.setattr(LocalStore, "create", overwrite)
    _, error = diagnosis(source, tmp_path / "out")
    assert error is not None
    assert "lets several threads create the same object" in str(error)


def test_a_storage_error_in_the_race_is_reported(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count()
    original = LocalStore.create

    def fail(self: LocalStore, key: str, data: bytes) -> bool:
        if next(calls) == 21:
            raise StorageError("out of reach")
        return original(self, key, data)

    monkeypatch.setattr(LocalStore, "create", fail)
    _, error = diagnosis(source, tmp_path / "out")
    assert isinstance(error, StorageError)
    assert list((tmp_path / "out").rglob("*/doctor-*")) == []


def test_unusable_inputs_are_skipped(source: Path, tmp_path: Path, fake_session: FakeSession) -> None:
    (source / "00000.json").write_text("{")
    (source / "00001.jpg").unlink()
    said, error = diagnosis(source, tmp_path / "out")
    assert error is None
    assert "00002.json: 1 instances" in said[-1]


def test_without_a_usable_input_the_reason_is_reported(source: Path, tmp_path: Path, fake_session: FakeSession) -> None:
    for path in source.glob("*.jpg"):
        path.write_bytes(b"no picture")
    _, error = diagnosis(source, tmp_path / "out")
    assert error is not None
    assert "none of the first 3 inputs can be annotated: 00000.json: image is not in a format" in str(error)


def test_nothing_of_the_image_is_stored(source: Path, tmp_path: Path, fake_session: FakeSession) -> None:
    assert diagnosis(source, tmp_path / "out")[1] is None
    assert fake_session.images == 1
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_an_unavailable_device_exits_with_70(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(artifact: object, **options: object) -> FakeSession:
        raise DeviceError("no device")

    monkeypatch.setattr("job.worker.factory.open_session", refuse)
    said, error = diagnosis(source, tmp_path / "out")
    assert len(said) == len(NAMES) - 1
    assert error is not None
    assert error.exit_code == 70


def test_a_model_of_another_format_is_found_before_an_image_is_tried(source: Path, tmp_path: Path) -> None:
    request = request_of(source, tmp_path / "out")
    request = replace(request, artifact=open_artifact(DEMO_ARTIFACT), options=replace(request.options, runtime="torch"))
    checks = list(examine(request))
    assert checks[-1].name == "model"
    assert checks[-1].error is not None
    assert checks[-1].error.exit_code == 78


@pytest.mark.parametrize("names", [[], ["a.jpg", "b/c.JPEG", "notes.txt"]], ids=["empty", "images only"])
def test_an_input_without_json_gets_a_cross_and_shows_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    assert run_cli(flags(tmp_path / "in", tmp_path / "out")) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "✗ input"
    if names:
        assert "but 2 images without one. The first keys are a.jpg, b/c.JPEG, notes.txt." in printed.err
    else:
        assert "in is empty: give the folder" in printed.err


def test_at_most_five_keys_are_shown(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(9):
        (tmp_path / "in" / f"{number}.jpg").touch()
    _, error = diagnosis(tmp_path / "in", tmp_path / "out")
    assert isinstance(error, UsageError)
    assert "9 images without one. The first keys are 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg. Each" in str(error)


@pytest.mark.parametrize(
    ("fold", "expected"),
    [
        (str.lower, "names that differ only in case are one file"),
        (lambda name: unicodedata.normalize("NFC", name), "names that differ only in Unicode form are one file"),
        (lambda name: unicodedata.normalize("NFC", name).lower(), "only in case or Unicode form are one file"),
    ],
    ids=["case", "Unicode form", "both"],
)
def test_an_output_that_folds_names_is_described(
    source: Path, tmp_path: Path, fake_session: FakeSession, monkeypatch: pytest.MonkeyPatch,
    fold: Callable[[str], str], expected: str,
) -> None:  # fmt: skip
    original = LocalStore._path
    monkeypatch.setattr(LocalStore, "_path", lambda self, key: original(self, fold(key)))
    said, error = diagnosis(source, tmp_path / "out")
    assert error is None
    assert expected in said[NAMES.index("file system")]


@pytest.mark.parametrize(
    ("extra", "cross"),
    [(["--out_top_dir", "in"], "✗ folders"), (["--model", "none"], "✗ model")],
    ids=["output is input", "no model"],
)
def test_a_setting_that_is_refused_before_the_checks_gets_a_cross(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    extra: list[str], cross: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run_cli([*flags(source, tmp_path / "out"), *extra]) in {2, 78}
    assert capsys.readouterr().out.splitlines() == [cross]


class PagedMemory(FsspecDriver):
    """A bucket in memory that lists in pages of two keys, and may ignore the key to start after."""

    def __init__(self, url: str, *, starts_anywhere: bool) -> None:
        super().__init__(url, {})
        self.starts_anywhere = starts_anywhere
        self._creating = threading.Lock()

    def create(self, key: str, data: bytes) -> bool:
        """See `Driver.create`; fsspec's memory lets two threads create the same object, which `doctor` would refuse."""
        with self._creating:
            return super().create(key, data)

    def page(self, prefix: str, after: str) -> Page:
        """See `PagedDriver.page`."""
        return self.page_of_token(prefix, after if self.starts_anywhere else "")

    def page_of_token(self, prefix: str, token: str) -> Page:
        """See `PagedDriver.page_of_token`."""
        names = self._fs.find(f"{self._root}/{prefix}")
        keys = sorted(name.removeprefix(f"{self._root}/") for name in names)
        found = [StoredObject(key, 1, 0.0) for key in keys if key > token]
        return Page(tuple(found[:2]), len(found) <= 2, found[1].key if len(found) > 2 else "")


@pytest.mark.parametrize(("starts_anywhere", "mentions"), [(True, 0), (False, 2)])
def test_a_store_that_ignores_the_start_of_listings_is_named(
    source: Path, tmp_path: Path, fake_session: FakeSession, starts_anywhere: bool, mentions: int
) -> None:
    stores = [
        ObjectStore(PagedMemory(f"memory://{tmp_path}/{name}", starts_anywhere=starts_anywhere), "x")
        for name in ("in", "out")
    ]
    for file in source.iterdir():
        stores[0].put(file.name, file.read_bytes())
    checks = list(examine(replace(request_of(source, tmp_path / "out"), source=stores[0], target=stores[1])))
    assert [check.error for check in checks] == [None] * len(NAMES)
    named = [check.name for check in checks if "does not list after any key (StartAfter)" in check.detail]
    assert named == ["output", "input"][:mentions]
