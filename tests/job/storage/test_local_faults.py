"""File systems that lack hard links or fsync, refuse folders, or fail one file."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job.errors import (
    ConfigurationError,
    ObjectMissingError,
    ObjectRefusedError,
    ReadOnlyStorageError,
    StorageError,
    UnreadableObjectError,
    UnstorableObjectError,
    UsageError,
)
from job.plan.output_names import fold
from job.storage.local import exclusive
from job.storage.local.probe import FileSystemTraits, names_meet, probe_file_system
from job.storage.local.store import LocalStore
from job.storage.store import first_writes
from tests.fakes import JumpingClock
from tests.job.storage.racing import race_to_create

NO_LINKS = [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP]


def failing(code: int, only: Callable[..., bool] = lambda *args: True, real: Any = None) -> Callable[..., Any]:
    """A system call that fails with this code where `only` says so."""

    def call(*args: Any, **options: Any) -> Any:
        if only(*args):
            raise OSError(code, os.strerror(code), str(args[0]))
        return real(*args, **options)

    return call


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out", "attempt", JumpingClock())


@pytest.mark.parametrize("code", NO_LINKS)
def test_create_is_exclusive_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "link", failing(code))
    stores = [LocalStore(tmp_path, f"attempt-{number}") for number in range(4)]
    race_to_create(stores, keys=20)
    assert not [path for path in (tmp_path / "_sam3" / "tmp").rglob("*") if path.is_file()]


def test_create_again_without_hard_links_compares(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    assert store.create("a", b"mine")
    assert store.create("a", b"mine")
    assert not store.create("a", b"another's")


@pytest.mark.parametrize("code", NO_LINKS)
def test_a_file_system_without_any_exclusive_create_is_a_configuration_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", failing(code))
    monkeypatch.setattr(exclusive, "_renameat2", lambda: None)
    with pytest.raises(ConfigurationError, match="has no hard links"):
        store.create("a", b"")
    assert store.stat("a") is None


def test_a_link_that_is_not_permitted_is_a_refusal(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EACCES))
    with pytest.raises(ObjectRefusedError, match="permission denied"):
        store.create("a", b"")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_store_goes_on_where_fsync_is_not_supported(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    store.put("folder/a", b"1")
    store.flush()
    assert store.read("folder/a") == b"1"


def test_a_failed_fsync_is_a_storage_error(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("folder/a", b"1")
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(StorageError, match=f"^{store.url}/[^/]*/?: Input/output error|^{store.url}: Input/output"):
        store.flush()


def test_flush_syncs_the_folder_that_holds_a_new_folder(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    synced: list[str] = []
    store.put("new/folder/a", b"")
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    store.flush()
    assert {f"{store.url}/new/folder", f"{store.url}/new", store.url} <= set(synced)


@pytest.mark.parametrize("name", ["lost+found", ".Trash", ".Trash-1000", ".snapshot", "$RECYCLE.BIN"])
def test_folders_of_the_file_system_are_passed_over_with_one_warning(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ("a/b.json", f"a/{name}/old.json", f"{name}/old.json"):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).touch()
    store = LocalStore(tmp_path, "a")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert [found.key for found in store.list()] == ["a/b.json"]
    assert sorted(record.getMessage().split(": ")[0] for record in caplog.records) == sorted(
        [f"Skipping folder {tmp_path}/a/{name}", f"Skipping folder {tmp_path}/{name}"]
    )


def refuse_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As root may list everything, the system call refuses."""
    monkeypatch.setattr(os, "scandir", failing(errno.EACCES, lambda path: Path(path) == folder, os.scandir))


def test_a_folder_that_may_not_be_listed_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private" / "deep").mkdir(parents=True)
    refuse_folder(monkeypatch, tmp_path / "private" / "deep")
    with pytest.raises(ConfigurationError, match=f"^folder {tmp_path}/private/deep cannot be listed.*--exclude"):
        list(LocalStore(tmp_path, "a").list())


def test_an_optional_folder_that_may_not_be_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.json", "private/x.json", "z.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    refuse_folder(monkeypatch, tmp_path / "private")
    listed = LocalStore(tmp_path, "a").list(is_optional=lambda folder: folder == "private/")
    assert [found.key for found in listed] == ["a.json", "z.json"]
    assert f"Skipping folder {tmp_path}/private: permission denied" in caplog.text


def test_a_folder_of_runs_that_may_not_be_listed_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_sam3").mkdir()
    refuse_folder(monkeypatch, tmp_path / "_sam3")
    with pytest.raises(ConfigurationError, match=f"^{tmp_path}/_sam3: permission denied"):
        LocalStore(tmp_path, "a").list_dirs("_sam3")


def test_broken_links_are_listed_if_they_name_a_json(tmp_path: Path) -> None:
    for name in ("loop.json", "loop.txt", "loop.jpg"):
        (tmp_path / name).symlink_to(name)
    for name in ("gone.json", "gone.jpg"):
        (tmp_path / name).symlink_to("/nowhere/x")
    (tmp_path / "z.json").touch()
    store = LocalStore(tmp_path, "a")
    assert [(found.key, found.fault) for found in store.list()] == [
        ("gone.json", "broken_link"),
        ("loop.json", "broken_link"),
        ("z.json", ""),
    ]
    with pytest.raises(ObjectMissingError, match="leads to itself"):
        store.read("loop.json")
    with pytest.raises(ObjectMissingError, match="leads nowhere"):
        store.read("gone.json")


def test_a_store_whose_folder_is_a_link_to_itself_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="leads to itself"):
        LocalStore(tmp_path / "loop", "a")


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_one_file_that_the_device_fails_is_retried_for_10_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "bad").touch()
    clock = JumpingClock()
    store = LocalStore(tmp_path, "a", clock)
    monkeypatch.setattr(Path, "read_bytes", failing(code))
    with pytest.raises(UnreadableObjectError, match=rf"^{tmp_path}/bad: cannot be read \({os.strerror(code)}\)"):
        store.read("bad")
    assert clock.now_s == pytest.approx(10.0)
    assert len(clock.waits) > 3


def test_a_file_that_is_readable_again_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"1")
    calls: list[int] = []
    real = Path.read_bytes

    def fails_twice(path: Path) -> bool:
        calls.append(1)
        return len(calls) < 3

    monkeypatch.setattr(Path, "read_bytes", failing(errno.ESTALE, fails_twice, real))
    assert LocalStore(tmp_path, "a", JumpingClock()).read("a") == b"1"
    assert len(calls) == 3


def test_a_device_that_does_not_serve_the_root_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path, "a", JumpingClock())
    monkeypatch.setattr(Path, "read_bytes", failing(errno.EIO))
    monkeypatch.setattr(os, "stat", failing(errno.EIO))
    with pytest.raises(StorageError, match=f"^{tmp_path}: ") as caught:
        store.read("a")
    assert not isinstance(caught.value, UnreadableObjectError)


class StaleEntry:
    """An entry of a folder whose status the device cannot read."""

    def __init__(self, name: str) -> None:
        self.name = self.path = name

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        raise OSError(errno.ESTALE, "stale")

    def stat(self) -> os.stat_result:
        raise OSError(errno.ESTALE, "stale")

    def is_symlink(self) -> bool:
        return False


def test_a_file_without_a_status_is_listed_and_does_not_end_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "z.json").touch()
    real = os.scandir

    class Scan:
        def __init__(self, path: Path) -> None:
            self._entries = [StaleEntry("bad.json"), StaleEntry("bad.txt"), *real(path)]

        def __enter__(self) -> Any:
            return self._entries

        def __exit__(self, *exc: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Scan)
    listed = [(found.key, found.fault) for found in LocalStore(tmp_path, "a").list()]
    assert listed == [("bad.json", "no_status"), ("z.json", "")]


def test_a_file_that_vanishes_does_not_end_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.json", "b.json", "c.json"):
        (tmp_path / name).touch()
    listing = LocalStore(tmp_path, "a").list()
    assert next(listing).key == "a.json"
    (tmp_path / "b.json").unlink()
    assert [found.key for found in listing] == ["c.json"]


def test_a_name_that_the_file_system_does_not_store_is_one_unstorable_object(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", failing(errno.EINVAL))
    with pytest.raises(UnstorableObjectError, match=f"^{store.url}/a:b"):
        store.put("a:b", b"")


def test_a_read_only_file_system_refuses(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", failing(errno.EROFS))
    with pytest.raises(ReadOnlyStorageError, match="read-only"):
        store.put("a", b"")
    with pytest.raises(ConfigurationError, match="read-only"), first_writes(store):
        store.put("a", b"")


def test_suffixes_are_those_of_files_of_exactly_this_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system calls find a file by its name in any case and Unicode form, as on APFS."""
    for key in ("Day/Img.json", "Day/Img.jpg", "Day/\u00e9.json"):
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).touch()

    def real_path(path: Any) -> str:
        parts, found = Path(path).relative_to(tmp_path).parts, str(tmp_path)
        for part in parts:
            names = listdir(found) if os.path.isdir(found) else []
            found += "/" + next((name for name in names if fold(name) == fold(part)), part)
        return found

    def folding(call: Callable[..., Any]) -> Callable[..., Any]:
        def found(path: Any, **options: Any) -> Any:
            return call(real_path(path) if Path(path).is_relative_to(tmp_path) else path, **options)

        return found

    stat, listdir = os.stat, os.listdir
    monkeypatch.setattr(os, "listdir", folding(os.listdir))
    monkeypatch.setattr(os.path, "isdir", lambda path: (stat(path).st_mode & 0o170000) == 0o040000)
    monkeypatch.setattr(os, "stat", folding(os.stat))
    monkeypatch.setattr(os, "lstat", folding(os.lstat))
    monkeypatch.setattr(os.path, "lexists", folding(os.path.lexists))
    store = LocalStore(tmp_path, "a")
    assert (tmp_path / "day" / "IMG.json").is_file()
    assert store.existing_suffixes("Day/Img") == {".json", ".jpg"}
    for stem in ("Day/IMG", "day/Img", "Day/e\u0301"):
        assert store.existing_suffixes(stem) == frozenset()
    assert store.existing_suffixes("Day/\u00e9") == {".json"}


def test_the_probe_tells_a_plain_linux_file_system(store: LocalStore, tmp_path: Path) -> None:
    assert probe_file_system(store) == FileSystemTraits()
    assert not names_meet(store, "a/B", "a/b")
    store.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_probe_tells_what_is_missing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    assert probe_file_system(store) == FileSystemTraits(
        exclusive_create="rename", syncs_files=False, syncs_folders=False
    )
    monkeypatch.setattr(exclusive, "_renameat2", lambda: None)
    traits = probe_file_system(store)
    assert traits is not None
    assert traits.exclusive_create is None


def test_a_folder_whose_path_is_too_long_is_not_skipped_silently(tmp_path: Path) -> None:
    """Its parent lists it, and its path exceeds PATH_MAX: its inputs would be lost."""
    before = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(before)
    with pytest.raises(ConfigurationError, match=r"too long: this folder cannot be listed\. Give it a shorter"):
        list(LocalStore(tmp_path, "me").list())
    subprocess.run(["rm", "-rf", *map(str, tmp_path.iterdir())], check=True)
