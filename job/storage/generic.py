"""Requests to any storage that fsspec supports: memory, GCS, Azure and others.

Each folder is listed whole, one at a time. Only the S3 driver lists in pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from job.errors import ObjectMissingError, ObjectRefusedError, UsageError
from job.redaction import public_url
from job.storage.keys import ordered
from job.storage.listing.pages import DirListing
from job.storage.retry import RefusedError, TransientError
from job.storage.store import UNKNOWN_SIZE, Fetched, StoredObject

_TIME_FIELDS = ("mtime", "updated", "last_modified", "LastModified", "modified", "created")


class FsspecDriver:
    """See `job.storage.object_store.Driver`."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        """Open a folder.

        Args:
            url: Of the folder.
            options: Storage options of the fsspec driver.
        """
        options.setdefault("use_listings_cache", False)
        self._fs, root = url_to_fs(url, **options)
        self._root = root.rstrip("/")
        self._url = public_url(url).rstrip("/")

    @property
    def url(self) -> str:
        """The URL that was given, without secrets and without a slash at its end."""
        return self._url

    def exists(self) -> bool:
        """True: object stores have no folders that could be missing."""
        return True

    def list_dir(self, prefix: str, after: str) -> DirListing:
        """See `Driver.list_dir`: the whole folder in one response."""
        folder = f"{self._root}/{prefix}".rstrip("/")
        try:
            with _mapped_errors():
                entries = self._fs.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return DirListing((), ())
        start = len(folder) + 1
        objects = [
            StoredObject(prefix + entry["name"][start:], _size(entry), _modified_s(entry))
            for entry in entries
            if entry["type"] == "file" and entry["name"] != folder
        ]
        folders = [entry["name"].rstrip("/")[start:] for entry in entries if entry["type"] == "directory"]
        return DirListing(
            tuple(sorted((item for item in objects if item.key > after), key=lambda item: ordered(item.key))),
            tuple(sorted((name for name in folders if name), key=ordered)),
        )

    def fetch(self, key: str) -> Fetched:
        """See `Driver.fetch`."""
        return Fetched(self._read(key))

    def fetch_range(self, key: str, start: int, length: int) -> bytes:
        """See `Driver.fetch_range`."""
        return self._read(key, start=start, end=start + length)

    def _read(self, key: str, **part: int) -> bytes:
        try:
            with _mapped_errors():
                return bytes(self._fs.cat_file(self._path(key), **part))
        except (FileNotFoundError, IsADirectoryError) as exc:
            raise ObjectMissingError(f"{self._url}/{key}: no such object") from exc
        except RefusedError as exc:
            raise ObjectRefusedError(f"{self._url}/{key}: {exc}") from exc

    def stat(self, key: str) -> StoredObject | None:
        """See `Driver.stat`."""
        try:
            with _mapped_errors():
                entry = self._fs.info(self._path(key))
        except FileNotFoundError:
            return None
        return StoredObject(key, entry["size"] or 0, _modified_s(entry)) if entry["type"] == "file" else None

    def put(self, key: str, data: bytes) -> None:
        """See `Driver.put`."""
        with _mapped_errors():
            self._fs.pipe_file(self._path(key), data)

    def put_file(self, key: str, path: Path) -> None:
        """See `Driver.put_file`."""
        with _mapped_errors():
            self._fs.put_file(str(path), self._path(key))

    def create(self, key: str, data: bytes) -> bool:
        """See `Driver.create`; not every driver is atomic here, so `doctor` tests it."""
        try:
            with _mapped_errors():
                self._fs.pipe_file(self._path(key), data, mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError, ValueError) as exc:
            raise UsageError(
                f"{self._url}: its fsspec driver has no exclusive create: {exc}. Use S3, GCS, Azure or a local folder"
            ) from exc
        return True

    def copy(self, key: str, fetched: Fetched) -> bool:
        """False: fsspec cannot copy a given version of an object."""
        return False

    def delete(self, key: str) -> None:
        """See `Driver.delete`."""
        with suppress(FileNotFoundError), _mapped_errors():
            self._fs.rm_file(self._path(key))

    def now_s(self) -> None:
        """None: fsspec has no clock of the storage."""
        return

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


@contextmanager
def _mapped_errors() -> Iterator[None]:
    """Map what may succeed in a retry; errors that tell what is there pass."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
        raise
    except PermissionError as exc:
        raise RefusedError(f"{type(exc).__name__}: {exc}") from exc
    except OSError as exc:
        raise TransientError(f"{type(exc).__name__}: {exc}") from exc


def _size(entry: dict[str, Any]) -> int:
    size = entry.get("size")
    return UNKNOWN_SIZE if size is None else int(size)


def _modified_s(entry: dict[str, Any]) -> float:
    for name in _TIME_FIELDS:
        value = entry.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0
