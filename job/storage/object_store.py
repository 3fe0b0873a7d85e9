"""A store in an object storage: what all drivers have in common, with retries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from job.errors import ObjectMissingError
from job.storage.keys import GROUP_SUFFIXES, ordered
from job.storage.listing.pages import DirListing, Page, Pages, is_rising
from job.storage.listing.parallel import list_in_order
from job.storage.retry import Retry
from job.storage.store import PRIVATE_FOLDER, Fetched, FolderTest, Guard, StoredObject, no_folder


class Driver(Protocol):
    """Single requests to a storage, without retries.

    Every method raises `TransientError` if a retry may succeed. Keys are relative to `url`. A prefix of a folder ends
    with `/` or is empty.
    """

    @property
    def url(self) -> str:
        """URL of the folder, without a slash at its end."""
        ...

    def exists(self) -> bool:
        """Whether the bucket exists."""
        ...

    def list_dir(self, prefix: str, after: str) -> DirListing:
        """List what is directly in a folder, after a key."""
        ...

    def fetch(self, key: str) -> Fetched:
        """Read; raises `ObjectMissingError` and `ObjectRefusedError`."""
        ...

    def fetch_range(self, key: str, start: int, length: int) -> bytes:
        """Read at most `length` bytes from byte `start`; raises as `fetch` does."""
        ...

    def stat(self, key: str) -> StoredObject | None:
        """Size and time, or None if there is no such object."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object atomically."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file atomically; a large one in parts."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write an object atomically if the key is free; False if it is not."""
        ...

    def copy(self, key: str, fetched: Fetched) -> bool:
        """Copy server-side; False if the storage cannot, or the original has changed."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        ...

    def now_s(self) -> float | None:
        """The clock of the storage, or None if it has no request for that."""
        ...


@runtime_checkable
class PagedDriver(Driver, Protocol):
    """A driver whose storage lists keys in order after any key."""

    def page(self, prefix: str, after: str) -> Page:
        """The next objects with the prefix `prefix` after the key `after`, in all subfolders."""
        ...

    def page_of_token(self, prefix: str, token: str) -> Page:
        """The same by the token of the page before; the first page for an empty token."""
        ...


class ObjectStore:
    """See `job.storage.store.Store`."""

    def __init__(self, driver: Driver, process_id: str, retry: Retry | None = None) -> None:
        self._driver = driver
        self._process_id = process_id
        self._retry = retry or Retry()
        self._pages = Pages(driver.url, self._page, self._page_of_token, self._list_dir)

    @property
    def url(self) -> str:
        """URL of the folder."""
        return self._driver.url

    def exists(self) -> bool:
        """Whether the bucket exists; a folder in it need not exist."""
        return self._retry.call(self.url, self._driver.exists)

    def list(
        self, prefix: str = "", skip: str | None = None, after: str = "", is_optional: FolderTest = no_folder
    ) -> Iterator[StoredObject]:
        """See `Store.list`; pages are fetched concurrently if the driver lists in pages. No folder is refused."""
        folder = _folder(prefix)
        if isinstance(self._driver, PagedDriver):
            return list_in_order(self._pages, folder, skip=skip, after=after)
        return self._list_recursively(folder, skip, after)

    def lists_after_any_key(self, prefix: str) -> bool | None:
        """Whether a listing may start after any key, so that it can be split; None if its first page does not tell."""
        if not isinstance(self._driver, PagedDriver):
            return None
        folder = _folder(prefix)
        page = self._page(folder, "")
        if len(page.objects) < 2:
            return None
        return is_rising(page.objects, "") and self._pages.check_start(folder, page)

    def list_dirs(self, prefix: str) -> tuple[str, ...]:
        """See `Store.list_dirs`."""
        names: list[str] = []
        after: str | None = ""
        while after is not None:
            listing = self._list_dir(_folder(prefix), after)
            names.extend(listing.folders)
            after = listing.next_key
        return tuple(names)

    def existing_suffixes(self, stem: str, among: Sequence[str] = GROUP_SUFFIXES) -> frozenset[str]:
        """See `Store.existing_suffixes`; one page if the driver lists in pages."""
        if not isinstance(self._driver, PagedDriver):
            return frozenset(suffix for suffix in among if self.stat(stem + suffix) is not None)
        found: set[str] = set()
        last, after = ordered(stem + max(among)), ""
        while True:
            page = self._page(f"{stem}.", after)
            found.update(item.key.removeprefix(stem) for item in page.objects)
            if page.is_last or ordered(page.objects[-1].key) >= last:
                return frozenset(found.intersection(among))
            after = page.objects[-1].key

    def read(self, key: str) -> bytes:
        """See `Store.read`."""
        return self.fetch(key).data

    def fetch(self, key: str) -> Fetched:
        """See `Store.fetch`."""
        return self._retry.call(self._named(key), lambda: self._driver.fetch(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.read_range`."""
        return self._retry.call(self._named(key), lambda: self._driver.fetch_range(key, start, length))

    def stat(self, key: str) -> StoredObject | None:
        """See `Store.stat`."""
        return self._retry.call(self._named(key), lambda: self._driver.stat(key))

    def put(self, key: str, data: bytes, guard: Guard | None = None) -> None:
        """See `Store.put`."""
        self._retry.call(self._named(key), lambda: self._driver.put(key, data), guard, is_write=True)

    def put_file(self, key: str, path: Path) -> None:
        """See `Store.put_file`."""
        self._retry.call(self._named(key), lambda: self._driver.put_file(key, path), is_write=True)

    def copy_from(self, key: str, fetched: Fetched, guard: Guard | None = None) -> None:
        """See `Store.copy_from`."""
        is_copied = fetched.source is not None and self._retry.call(
            self._named(key), lambda: self._driver.copy(key, fetched), guard, is_write=True
        )
        if not is_copied:
            self.put(key, fetched.data, guard)

    def create(self, key: str, data: bytes) -> bool:
        """See `Store.create`. "It exists" may be the response to an earlier try of this call, so compare its bytes."""
        if self._retry.call(self._named(key), lambda: self._driver.create(key, data), is_write=True):
            return True
        try:
            return self.read(key) == data
        except ObjectMissingError:
            return False

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._retry.call(self._named(key), lambda: self._driver.delete(key))

    def flush(self) -> None:
        """Nothing to do: an acknowledged put is stored."""

    def now_s(self) -> float:
        """See `Store.now_s`; the time of a probe object if the storage has no clock."""
        now_s = self._retry.call(self.url, self._driver.now_s)
        if now_s is not None:
            return now_s
        probe = f"{PRIVATE_FOLDER}/tmp/{self._process_id}.clock"
        self.put(probe, b"")
        found = self.stat(probe)
        self.delete(probe)
        return 0.0 if found is None else found.modified_s

    def close(self) -> None:
        """Nothing to do: there are no temporary files."""

    def _page(self, prefix: str, after: str) -> Page:
        driver = self._driver
        assert isinstance(driver, PagedDriver)
        return self._retry.call(self._named(prefix), lambda: driver.page(prefix, after))

    def _page_of_token(self, prefix: str, token: str) -> Page:
        driver = self._driver
        assert isinstance(driver, PagedDriver)
        return self._retry.call(self._named(prefix), lambda: driver.page_of_token(prefix, token))

    def _list_dir(self, prefix: str, after: str) -> DirListing:
        return self._retry.call(self._named(prefix), lambda: self._driver.list_dir(prefix, after))

    def _list_recursively(self, folder: str, skip: str | None, after: str) -> Iterator[StoredObject]:
        """List folder by folder, each in memory as a whole, for drivers without pages."""
        listing = self._list_dir(folder, "")
        entries: list[tuple[str, StoredObject | None]] = [(item.key, item) for item in listing.objects]
        entries += [(f"{folder}{name}/", None) for name in listing.folders if f"{folder}{name}" != skip]
        for key, item in sorted(entries, key=lambda entry: ordered(entry[0])):
            if item is None:
                yield from self._list_recursively(key, skip, after)
            elif not after or ordered(key) > ordered(after):
                yield item

    def _named(self, key: str) -> str:
        return f"{self.url}/{key}"


def _folder(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/" if prefix else ""
