"""A local store: whole objects, exclusive creation, listings in the order of S3."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job.errors import CredentialsRefusedError, ObjectMissingError, ObjectRefusedError, UsageError
from job.storage.generic import FsspecDriver
from job.storage.keys import ordered
from job.storage.local.store import LocalStore
from job.storage.object_store import ObjectStore
from job.storage.open import open_store
from job.storage.retry import Retry
from job.storage.store import read_if_there
from tests.fakes import JumpingClock
from tests.job.storage.racing import race_to_create

parts = st.text(st.sampled_from("ab-.0é"), min_size=1, max_size=3).filter(lambda name: set(name) != {"."})
names = st.lists(parts, min_size=1, max_size=3).map("/".join)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out", "attempt")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.sets(names, max_size=12))
def test_a_listing_has_every_key_in_byte_order(tmp_path_factory: pytest.TempPathFactory, keys: set[str]) -> None:
    root = tmp_path_factory.mktemp("listing")
    written = set()
    for key in sorted(keys):
        path = root / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError:
            continue
        written.add(str(path.relative_to(root)))
    listed = [found.key for found in LocalStore(root, "a").list()]
    assert listed == sorted(written, key=ordered)


def test_a_listing_skips_the_private_folder_and_links_to_folders(tmp_path: Path) -> None:
    for name in ("a.json", "_sam3/runs/r/run.json", "b/_sam3/c.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "file_link.json").symlink_to(tmp_path / "a.json")
    listed = [found.key for found in LocalStore(tmp_path, "a").list(skip="_sam3")]
    assert listed == ["a.json", "b/_sam3/c.json", "file_link.json"]


def test_a_folder_that_does_not_exist_is_empty(store: LocalStore) -> None:
    assert list(store.list()) == []
    assert store.list_dirs("runs") == ()
    assert store.stat("a") is None
    assert read_if_there(store, "a") is None
    with pytest.raises(ObjectMissingError, match="no such file"):
        store.read("a")


def test_one_of_many_concurrent_creates_wins(tmp_path: Path) -> None:
    stores = [LocalStore(tmp_path, f"attempt-{number}") for number in range(8)]
    race_to_create(stores, keys=50)


def test_creating_the_same_bytes_again_succeeds(store: LocalStore) -> None:
    assert store.create("a", b"mine")
    assert store.create("a", b"mine")
    assert not store.create("a", b"another's")
    assert store.read("a") == b"mine"


def test_a_put_leaves_only_the_object(store: LocalStore, tmp_path: Path) -> None:
    store.put("x/y", b"1")
    store.put("x/y", b"2")
    store.flush()
    store.close()
    files = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files == [Path("x/y")]
    assert store.read("x/y") == b"2"


def test_temporary_folders_of_ended_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    old, young = (tmp_path / "_sam3" / "tmp" / name for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "1").touch()
    os.utime(old, (0, 0))
    LocalStore(tmp_path, "mine").close()
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("key", ["../a", "/etc/passwd", "a/../../b"])
def test_a_key_outside_of_the_store_is_refused(store: LocalStore, key: str) -> None:
    with pytest.raises(UsageError, match="leads out"):
        store.read(key)


def test_the_clock_of_a_store_is_the_clock_of_its_objects(store: LocalStore) -> None:
    store.put("a", b"")
    found = store.stat("a")
    assert found is not None
    assert abs(store.now_s() - found.modified_s) < 5


@pytest.mark.parametrize("url", ["folder", "file:///tmp/folder"])
def test_paths_and_file_urls_are_local(url: str) -> None:
    assert isinstance(open_store(url, "a"), LocalStore)


@pytest.mark.parametrize("url", ["FILE:///tmp/folder", "File:///tmp/folder", "LOCAL:///tmp/folder"])
def test_the_scheme_of_a_local_url_is_case_insensitive(url: str) -> None:
    store = open_store(url, "a")
    assert isinstance(store, LocalStore)
    assert store.url == "/tmp/folder"


def test_the_scheme_of_a_url_is_case_insensitive_but_nothing_else_is() -> None:
    open_store("Memory://Case/In", "a").put("K", b"1")
    assert open_store("memory://Case/In", "a").read("K") == b"1"
    assert read_if_there(open_store("memory://case/in", "a"), "K") is None


class RefusingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A storage that refuses every request of this user."""

    protocol = "refusing"
    cachable = False

    def _refuse(self, *arguments: object, **more: object) -> None:
        raise PermissionError("no such permission")

    ls = info = cat_file = pipe_file = put_file = rm_file = _refuse


def test_a_storage_of_fsspec_that_refuses_this_user_names_the_credentials(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    register_implementation("refusing", RefusingFileSystem, clobber=True)
    store = ObjectStore(FsspecDriver("refusing://bucket/out", {}), "me", Retry(clock=JumpingClock()))
    writes = (
        lambda: store.put("a", b""), lambda: store.create("a", b""), lambda: store.put_file("a", tmp_path / "file"),
        lambda: store.delete("a"), lambda: store.stat("a"), lambda: list(store.list()),
    )  # fmt: skip
    for write in writes:
        with pytest.raises(CredentialsRefusedError, match="check the credentials and their permissions"):
            write()
    with pytest.raises(ObjectRefusedError, match="no such permission"):
        store.read("a")


def test_a_large_file_is_copied_without_being_held_in_memory(tmp_path: Path, store: LocalStore) -> None:
    data = os.urandom(1 << 20) * 40
    (tmp_path / "large").write_bytes(data)
    tracemalloc.start()
    try:
        store.put_file("a/large", tmp_path / "large")
        assert tracemalloc.get_traced_memory()[1] < len(data) / 8
    finally:
        tracemalloc.stop()
    assert store.read("a/large") == data
