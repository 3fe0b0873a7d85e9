"""A store in an object storage: what every driver has in common, tried again where that may help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from job.errors import ObjectMissingError
from job.storage.keys import GROUP_SUFFIXES, MASK_SUFFIX, ordered
from job.storage.listing import Level, Page, list_in_order
from job.storage.retry import Retry
from job.storage.store import PRIVATE_FOLDER, Fetched, FolderTest, Guard, StoredObject, no_folder


class Driver(Protocol):
    """Single requests to a storage, each made once.

    Every method raises `TransientError` when another try may help. Keys are relative to `url`; prefixes of
    folders end with `/` or are empty.
    """

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    def exists(self) -> bool:
        """Whether the bucket is there."""
        ...

    def list_dir(self, prefix: str, after: str) -> Level:
        """What lies directly in a folder, after a key."""
        ...

    def fetch(self, key: str) -> Fetched:
        """Read; raises `ObjectMissingError` and `ObjectRefusedError`."""
        ...

    def fetch_range(self, key: str, start: int, length: int) -> bytes:
        """Read a part, less where the object ends; raises as `fetch` does."""
        ...

    def stat(self, key: str) -> StoredObject | None:
        """Size and time."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write whole."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file whole, in parts where it is large."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write whole where nothing is; False when something is."""
        ...

    def copy(self, key: str, fetched: Fetched) -> bool:
        """Copy inside the storage; False when this storage cannot, or the original has changed."""
        ...

    def delete(self, key: str) -> None:
        """Remove; nothing there is no error."""
        ...

    def now_s(self) -> float | None:
        """The storage's clock, or None when it tells no time by itself."""
        ...


@runtime_checkable
class PagedDriver(Driver, Protocol):
    """A driver whose storage lists keys in order from any key on."""

    def page(self, prefix: str, after: str) -> Page:
        """The next objects, however deep, whose keys begin with `prefix` and come after `after`."""
        ...


class ObjectStore:
    """See `job.storage.store.Store`."""

    def __init__(self, driver: Driver, process_id: str, retry: Retry | None = None) -> None:
        self._driver = driver
        self._process_id = process_id
        self._retry = retry or Retry()

    @property
    def url(self) -> str:
        """URL of the folder."""
        return self._driver.url

    def exists(self) -> bool:
        """Whether the bucket is there; a folder in it needs not be."""
        return self._retry.call(self.url, self._driver.exists)

    def list(
        self, prefix: str = "", skip: str | None = None, after: str = "", is_optional: FolderTest = no_folder
    ) -> Iterator[StoredObject]:
        """See `Store.list`; many pages are fetched at once where the storage can page. No folder is refused."""
        folder = _folder(prefix)
        if isinstance(self._driver, PagedDriver):
            return list_in_order(self._page, self._level, folder, skip=skip, after=after)
        return self._walk_levels(folder, skip, after)

    def list_dirs(self, prefix: str) -> tuple[str, ...]:
        """See `Store.list_dirs`."""
        names: list[str] = []
        after: str | None = ""
        while after is not None:
            level = self._level(_folder(prefix), after)
            names.extend(level.folders)
            after = level.next_key
        return tuple(names)

    def existing_suffixes(self, stem: str) -> frozenset[str]:
        """See `Store.existing_suffixes`; one page where the storage can page."""
        if not isinstance(self._driver, PagedDriver):
            return frozenset(suffix for suffix in GROUP_SUFFIXES if self.stat(stem + suffix) is not None)
        found: set[str] = set()
        last, after = ordered(stem + MASK_SUFFIX), ""
        while True:
            page = self._page(f"{stem}.", after)
            found.update(item.key.removeprefix(stem) for item in page.objects)
            if page.is_last or ordered(page.objects[-1].key) >= last:
                return frozenset(found.intersection(GROUP_SUFFIXES))
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
        """See `Store.create`; "it exists" may be the answer to one's own earlier try, so it is read back."""
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
        """Nothing to do: a put that was answered is stored."""

    def now_s(self) -> float:
        """See `Store.now_s`; read off a probe where the storage tells no time by itself."""
        now_s = self._retry.call(self.url, self._driver.now_s)
        if now_s is not None:
            return now_s
        probe = f"{PRIVATE_FOLDER}/tmp/{self._process_id}.clock"
        self.put(probe, b"")
        found = self.stat(probe)
        self.delete(probe)
        return 0.0 if found is None else found.modified_s

    def close(self) -> None:
        """Nothing to do: an object store needs no temporary files."""

    def _page(self, prefix: str, after: str) -> Page:
        driver = self._driver
        assert isinstance(driver, PagedDriver)
        return self._retry.call(self._named(prefix), lambda: driver.page(prefix, after))

    def _level(self, prefix: str, after: str) -> Level:
        return self._retry.call(self._named(prefix), lambda: self._driver.list_dir(prefix, after))

    def _walk_levels(self, folder: str, skip: str | None, after: str) -> Iterator[StoredObject]:
        """Folder by folder, one in memory at a time: for storages that cannot page."""
        level = self._level(folder, "")
        entries: list[tuple[str, StoredObject | None]] = [(item.key, item) for item in level.objects]
        entries += [(f"{folder}{name}/", None) for name in level.folders if f"{folder}{name}" != skip]
        for key, item in sorted(entries, key=lambda entry: ordered(entry[0])):
            if item is None:
                yield from self._walk_levels(key, skip, after)
            elif not after or ordered(key) > ordered(after):
                yield item

    def _named(self, key: str) -> str:
        return f"{self.url}/{key}"


def _folder(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/" if prefix else ""
