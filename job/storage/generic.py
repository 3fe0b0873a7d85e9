"""Requests to any storage that fsspec has a driver for: memory, GCS, Azure and others.

Folders are listed one by one and held in memory one at a time; only S3 has a driver of its own that pages.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from job.errors import ObjectMissingError, ObjectRefusedError, UsageError
from job.storage.keys import ordered
from job.storage.listing import Level
from job.storage.retry import TransientError
from job.storage.store import Fetched, StoredObject

_TIME_FIELDS = ("mtime", "updated", "last_modified", "LastModified", "modified", "created")


class FsspecDriver:
    """See `job.storage.object_store.Driver`."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        """Open a folder.

        Args:
            url: Of the folder.
            options: Of the fsspec driver.
        """
        options.setdefault("use_listings_cache", False)
        self._fs, root = url_to_fs(url, **options)
        self._root = root.rstrip("/")
        self._url = url.rstrip("/")

    @property
    def url(self) -> str:
        """As it was given."""
        return self._url

    def exists(self) -> bool:
        """Object stores have no empty folders: whatever can be listed is there."""
        return True

    def list_dir(self, prefix: str, after: str) -> Level:
        """See `Driver.list_dir`: the whole folder in one answer."""
        folder = f"{self._root}/{prefix}".rstrip("/")
        try:
            entries = self._fs.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return Level((), ())
        except OSError as exc:
            raise TransientError(f"{type(exc).__name__}: {exc}") from exc
        start = len(folder) + 1
        objects = [
            StoredObject(prefix + entry["name"][start:], entry["size"] or 0, _modified_s(entry))
            for entry in entries
            if entry["type"] == "file" and entry["name"] != folder
        ]
        folders = [entry["name"].rstrip("/")[start:] for entry in entries if entry["type"] == "directory"]
        return Level(
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
            return bytes(self._fs.cat_file(self._path(key), **part))
        except (FileNotFoundError, IsADirectoryError) as exc:
            raise ObjectMissingError(f"{self._url}/{key}: no such object") from exc
        except PermissionError as exc:
            raise ObjectRefusedError(f"{self._url}/{key}: {exc}") from exc
        except OSError as exc:
            raise TransientError(f"{type(exc).__name__}: {exc}") from exc

    def stat(self, key: str) -> StoredObject | None:
        """See `Driver.stat`."""
        try:
            entry = self._fs.info(self._path(key))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise TransientError(f"{type(exc).__name__}: {exc}") from exc
        return StoredObject(key, entry["size"] or 0, _modified_s(entry)) if entry["type"] == "file" else None

    def put(self, key: str, data: bytes) -> None:
        """See `Driver.put`."""
        try:
            self._fs.pipe_file(self._path(key), data)
        except OSError as exc:
            raise TransientError(f"{type(exc).__name__}: {exc}") from exc

    def put_file(self, key: str, path: Path) -> None:
        """See `Driver.put_file`."""
        try:
            self._fs.put_file(str(path), self._path(key))
        except OSError as exc:
            raise TransientError(f"{type(exc).__name__}: {exc}") from exc

    def create(self, key: str, data: bytes) -> bool:
        """See `Driver.create`; `doctor` races it, since drivers differ in how exclusive it is."""
        try:
            self._fs.pipe_file(self._path(key), data, mode="create")
        except FileExistsError:
            return False
        except OSError as exc:
            raise TransientError(f"{type(exc).__name__}: {exc}") from exc
        except (TypeError, NotImplementedError, ValueError) as exc:
            raise UsageError(f"{self._url}: the driver of this storage cannot create exclusively: {exc}") from exc
        return True

    def copy(self, key: str, fetched: Fetched) -> bool:
        """Never: a version cannot be asked for."""
        return False

    def delete(self, key: str) -> None:
        """See `Driver.delete`."""
        try:
            self._fs.rm_file(self._path(key))
        except FileNotFoundError:
            return
        except OSError as exc:
            raise TransientError(f"{type(exc).__name__}: {exc}") from exc

    def now_s(self) -> None:
        """No driver tells its storage's time."""
        return

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


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
