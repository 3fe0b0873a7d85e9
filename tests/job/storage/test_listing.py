"""Concurrent listings: order, completeness, skipped folders, bounded read-ahead."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from job.errors import ConfigurationError
from job.storage.keys import ordered
from job.storage.listing import DirListing, Page, list_in_order
from job.storage.store import StoredObject

parts = st.text(alphabet="ab./0é\U0001f600", min_size=1, max_size=3)
keys = st.lists(st.lists(parts, min_size=1, max_size=4).map("/".join), max_size=60, unique=True)


class Bucket:
    """Lists as S3 does: pages of a few keys after a key, common prefixes at the delimiter."""

    def __init__(self, names: list[str], page_size: int) -> None:
        self.names = sorted(names, key=ordered)
        self.page_size = page_size
        self.pages = self.levels = 0
        self.lock = threading.Lock()

    def page(self, prefix: str, after: str) -> Page:
        with self.lock:
            self.pages += 1
        found = [name for name in self.names if name.startswith(prefix) and ordered(name) > ordered(after)]
        return Page(tuple(map(stored, found[: self.page_size])), is_last=len(found) <= self.page_size)

    def list_dir(self, prefix: str, after: str) -> DirListing:
        with self.lock:
            self.levels += 1
        entries: dict[str, bool] = {}
        for name in self.names:
            if name.startswith(prefix) and ordered(name) > ordered(after):
                head, slash, _ = name[len(prefix) :].partition("/")
                entries[prefix + head + slash] = bool(slash)
        taken = list(entries.items())[: self.page_size]
        next_key = None
        if len(entries) > self.page_size:
            last, is_folder = taken[-1]
            next_key = f"{last}\U0010ffff" if is_folder else last
        return DirListing(
            tuple(stored(name) for name, is_folder in taken if not is_folder),
            tuple(name.removeprefix(prefix)[:-1] for name, is_folder in taken if is_folder),
            next_key,
        )


def stored(name: str) -> StoredObject:
    return StoredObject(name, 1, 0.0)


def listed(bucket: Bucket, folder: str = "", skip: str | None = None, after: str = "") -> list[str]:
    return [item.key for item in list_in_order(bucket.page, bucket.list_dir, folder, skip=skip, after=after)]


@example(["/", "/0"], 1, None, "")  # a folder without a name
@given(keys, st.integers(1, 7), st.sampled_from([None, "a", "b/a"]), st.sampled_from(["", "a", "a/b", "zz"]))
def test_every_key_is_listed_once_in_order_for_any_page_size(
    names: list[str], page_size: int, skip: str | None, after: str
) -> None:
    bucket = Bucket(names, page_size)
    wanted = [name for name in bucket.names if ordered(name) > ordered(after)]
    if skip:
        wanted = [name for name in wanted if not name.startswith(f"{skip}/")]
    assert listed(bucket, skip=skip, after=after) == wanted


@given(keys, st.integers(1, 7))
def test_a_folder_has_only_its_own_keys(names: list[str], page_size: int) -> None:
    bucket = Bucket(names, page_size)
    assert listed(bucket, "a/") == [name for name in bucket.names if name.startswith("a/")]


def test_folders_are_listed_concurrently_with_bounded_read_ahead() -> None:
    names = [f"{day:03d}/{number:03d}.json" for day in range(100) for number in range(100)]
    bucket = Bucket(names, page_size=10)
    reader = list_in_order(bucket.page, bucket.list_dir, "", skip=None, after="")
    for _ in range(11):
        next(reader)
    deadline = time.monotonic() + 5
    while bucket.pages < 32 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert 32 <= bucket.pages <= 1 + 32 * 4, "32 folders at once, three pages of each waiting and one in hand"
    assert len(list(reader)) == len(names) - 11
    assert bucket.pages + bucket.levels <= len(names) / 10 + 2 * 100 + 10


def test_closing_the_reader_ends_the_listing_threads() -> None:
    bucket = Bucket([f"{day}/{number:03d}" for day in range(9) for number in range(99)], page_size=5)
    reader = list_in_order(bucket.page, bucket.list_dir, "", skip=None, after="")
    for _ in range(10):
        next(reader)
    reader.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("list") for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("list")]


def test_an_error_of_a_listing_thread_reaches_the_reader() -> None:
    bucket = Bucket([f"{day}/{number:03d}" for day in range(9) for number in range(99)], page_size=5)

    def page(prefix: str, after: str) -> Page:
        if prefix.startswith("7/"):
            raise OSError("gone")
        return bucket.page(prefix, after)

    with pytest.raises(OSError, match="gone"):
        list(list_in_order(page, bucket.list_dir, "", skip=None, after=""))


def test_a_storage_that_lists_without_order_is_refused() -> None:
    def page(prefix: str, after: str) -> Page:
        return Page((stored("b"), stored("a")), is_last=True)

    with pytest.raises(ConfigurationError, match="does not list in order"):
        list(list_in_order(page, Bucket([], 1).list_dir, "", skip=None, after=""))
