"""Buckets in memory that list as S3 does, and listings in simulated time."""

from __future__ import annotations

import heapq
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import job.storage.listing.parallel
from job.storage.keys import ordered
from job.storage.listing.pages import LAST_CHARACTER, DirListing, Page, Pages
from job.storage.listing.parallel import list_in_order
from job.storage.store import StoredObject


class Bucket:
    """Lists as S3 does: pages of a few keys after a key, common prefixes at the delimiter.

    Attributes:
        pages: Pages that were listed.
        levels: Listings of a folder.
        most_held: Most pages whose objects were in memory at once.
    """

    def __init__(self, names: list[str], page_size: int) -> None:
        self.names = sorted(names, key=ordered)
        self.page_size = page_size
        self.pages = self.levels = 0
        self.held = self.most_held = 0
        self.lock = threading.Lock()

    def requests(self) -> Pages:
        """The requests of a listing of this bucket."""
        return Pages("bucket", self.page, self.page_of_token, self.list_dir)

    def page(self, prefix: str, after: str) -> Page:
        with self.lock:
            self.pages += 1
        start = max(bisect_right(self.names, after), bisect_left(self.names, prefix))
        found = []
        for name in self.names[start : start + self.page_size + 1]:
            if not name.startswith(prefix):
                break
            found.append(name)
        objects = tuple(map(stored, found[: self.page_size]))
        if objects:
            weakref.finalize(objects[-1], self._let_go)
            self.held += 1
            self.most_held = max(self.most_held, self.held)
        return Page(objects, is_last=len(found) <= self.page_size)

    def _let_go(self) -> None:
        self.held -= 1

    def page_of_token(self, prefix: str, token: str) -> Page:
        page = self.page(prefix, token)
        return Page(page.objects, page.is_last, "" if page.is_last else page.objects[-1].key)

    def list_dir(self, prefix: str, after: str) -> DirListing:
        with self.lock:
            self.levels += 1
        entries: list[tuple[str, bool]] = []
        position = max(bisect_right(self.names, after), bisect_left(self.names, prefix))
        while position < len(self.names) and self.names[position].startswith(prefix):
            head, slash, _ = self.names[position][len(prefix) :].partition("/")
            if len(entries) == self.page_size:
                last, is_folder = entries[-1]
                return self._dir(prefix, entries, f"{last}{LAST_CHARACTER}" if is_folder else last)
            entries.append((prefix + head + slash, bool(slash)))
            end = f"{prefix}{head}/{LAST_CHARACTER}" if slash else self.names[position]
            position = bisect_right(self.names, end)
        return self._dir(prefix, entries, None)

    @staticmethod
    def _dir(prefix: str, entries: list[tuple[str, bool]], next_key: str | None) -> DirListing:
        return DirListing(
            tuple(stored(name) for name, is_folder in entries if not is_folder),
            tuple(name.removeprefix(prefix)[:-1] for name, is_folder in entries if is_folder),
            next_key,
        )


class Stored(StoredObject):
    """An object whose end can be watched."""

    __slots__ = ("__weakref__",)


def stored(name: str) -> StoredObject:
    return Stored(name, 1, 0.0)


def listed(bucket: Bucket, folder: str = "", skip: str | None = None, after: str = "") -> list[str]:
    return [item.key for item in list_in_order(bucket.requests(), folder, skip=skip, after=after)]


class VirtualTime:
    """Takes the place of the threads of a listing: every request takes `page_s` of a simulated clock.

    Attributes:
        now_s: Simulated time.
        most_waiting: Most requests that were under way at once.
    """

    def __init__(self, page_s: float) -> None:
        self._page_s = page_s
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.now_s = 0.0
        self.most_waiting = 0

    def submit(self, call: Callable[[], None]) -> Future[None]:
        self._count += 1
        heapq.heappush(self._waiting, (self.now_s + self._page_s, self._count, call))
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        return Future()

    def shutdown(self, **more: object) -> None:
        pass

    def wait(self) -> None:
        """Let the next request end."""
        self.now_s, _, call = heapq.heappop(self._waiting)
        call()

    def end_all(self) -> None:
        """Let all requests end, and those that follow from them."""
        while self._waiting:
            self.wait()

    def notify_all(self) -> None:
        pass

    def __enter__(self) -> VirtualTime:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@contextmanager
def virtual_time(page_s: float) -> Iterator[VirtualTime]:
    """Let listings run in simulated time; the first page and the check of the store count as well."""
    time = VirtualTime(page_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.storage.listing.parallel, "ThreadPoolExecutor", lambda *arguments, **more: time)
        patch.setattr(job.storage.listing.parallel, "threading", SimpleNamespace(Condition=lambda: time))
        yield time
