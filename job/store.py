"""The border to storage: the only module that knows fsspec and the file system.

A store is a folder of whole objects under relative keys with `/` between their parts (UTF-8, ordered byte by
byte). An object appears whole or not at all, and `create` makes it exclusively: those two are all that a run
needs to survive anything (see docs/architecture.md, "Why nothing is lost").
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from job.errors import ConfigurationError, ObjectError, ObjectMissingError, ObjectRefusedError, StorageError, UsageError

PRIVATE_FOLDER = "_sam3"
STALE_SCRATCH_S = 24 * 3600.0


@dataclass(frozen=True)
class StoredObject:
    """One line of a listing: relative key, size in bytes, time of the last change by the store's clock."""

    key: str
    size: int
    modified_s: float


class Store(Protocol):
    """A folder of whole objects. Safe to use from several threads."""

    @property
    def url(self) -> str:
        """Where it is, as a person would write it."""
        ...

    def exists(self) -> bool:
        """Whether the folder itself is there; an object store's always is."""
        ...

    def walk(self, prefix: str = "", skip: str | None = None) -> Iterator[StoredObject]:
        """All objects whose key begins with the folder `prefix`, ascending, without those in folder `skip`."""
        ...

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly in `prefix`, ascending; none when it does not exist."""
        ...

    def read(self, key: str) -> bytes:
        """The whole object.

        Raises:
            ObjectMissingError: There is none.
            ObjectRefusedError: This user may not read it.
            StorageError: The store is out of reach.
        """
        ...

    def stat(self, key: str) -> StoredObject | None:
        """Size and time of an object, or None when there is none."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store an object whole, in place of an earlier one.

        Raises:
            StorageError: Out of reach, or no space left.
        """
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Store an object whole only if there is none of that key.

        Returns:
            Whether the object that is there now is this one.

        Raises:
            StorageError: Out of reach, or no space left.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def flush(self) -> None:
        """Make sure that everything put so far survives a power cut."""
        ...

    def now_s(self) -> float:
        """The store's own clock, comparable with `StoredObject.modified_s`."""
        ...

    def close(self) -> None:
        """Remove what only this user of the store needed."""
        ...


def read_if_there(store: Store, key: str) -> bytes | None:
    """The whole object, or None when there is none."""
    try:
        return store.read(key)
    except ObjectMissingError:
        return None


def open_store(url: str, attempt: str) -> Store:
    """Open a folder by path or URL.

    Args:
        url: Path of a local folder, or `file://…`.
        attempt: Name of this process, unique; temporary files lie in a folder of that name.

    Raises:
        UsageError: A kind of storage that is not supported.
    """
    protocol = get_protocol(url)
    if protocol not in {"file", "local"}:
        raise UsageError(f"{url}: storage of kind {protocol!r} is not supported yet; give a local folder")
    return LocalStore(Path(LocalFileSystem._strip_protocol(url)), attempt)


class LocalStore:
    """A store on a local (or mounted) file system.

    Objects are written to `_sam3/tmp/<attempt>/` on the same file system, synced, then renamed into place or,
    for an exclusive create, hard-linked: `link(2)` fails when the name is taken and shows only whole files.
    """

    def __init__(self, root: Path, attempt: str) -> None:
        self._root = root.resolve()
        self._scratch = self._root / PRIVATE_FOLDER / "tmp" / attempt
        self._lock = threading.Lock()
        self._counter = 0
        self._unsynced: set[Path] = set()

    @property
    def url(self) -> str:
        """Absolute path of the folder."""
        return str(self._root)

    def exists(self) -> bool:
        """Whether the folder is there."""
        return self._root.is_dir()

    def walk(self, prefix: str = "", skip: str | None = None) -> Iterator[StoredObject]:
        """See `Store.walk`. Links to folders are not followed; one folder's names are held at a time."""
        folder = self._path(prefix) if prefix else self._root
        yield from _walk(folder, f"{prefix.rstrip('/')}/" if prefix else "", skip)

    def folders(self, prefix: str) -> list[str]:
        """See `Store.folders`."""
        with _mapped_errors(self._root, prefix):
            try:
                with os.scandir(self._path(prefix)) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def read(self, key: str) -> bytes:
        """See `Store.read`."""
        with _mapped_errors(self._root, key):
            return self._path(key).read_bytes()

    def stat(self, key: str) -> StoredObject | None:
        """See `Store.stat`."""
        with _mapped_errors(self._root, key):
            try:
                status = self._path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return StoredObject(key=key, size=status.st_size, modified_s=status.st_mtime)

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        with _mapped_errors(self._root, key):
            temporary, target = self._write_scratch(data), self._path(key)
            self._make_folder(target.parent)
            temporary.replace(target)

    def create(self, key: str, data: bytes) -> bool:
        """See `Store.create`."""
        with _mapped_errors(self._root, key):
            temporary, target = self._write_scratch(data), self._path(key)
            self._make_folder(target.parent)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return target.read_bytes() == data
            finally:
                temporary.unlink()
            return True

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        with _mapped_errors(self._root, key):
            self._path(key).unlink(missing_ok=True)

    def flush(self) -> None:
        """Sync the folders in which names have changed; files are synced before they are renamed."""
        with self._lock:
            folders, self._unsynced = self._unsynced, set()
        for folder in folders:
            with _mapped_errors(self._root, str(folder)), _opened_folder(folder) as descriptor:
                os.fsync(descriptor)

    def now_s(self) -> float:
        """The file system's clock, read off a file that is written for it."""
        with _mapped_errors(self._root, PRIVATE_FOLDER):
            probe = self._write_scratch(b"")
            modified_s = probe.stat().st_mtime
            probe.unlink()
            return modified_s

    def close(self) -> None:
        """Remove this attempt's temporary folder and those that dead processes left more than a day ago."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        parent = self._scratch.parent
        with suppress(OSError):
            for folder in parent.iterdir():
                if time.time() - folder.stat().st_mtime > STALE_SCRATCH_S:
                    shutil.rmtree(folder, ignore_errors=True)
            parent.rmdir()

    def _path(self, key: str) -> Path:
        path = self._root / key
        if ".." in Path(key).parts or Path(key).is_absolute():
            raise UsageError(f"key {key!r} leads out of {self._root}: keys are relative, without `..`")
        return path

    def _write_scratch(self, data: bytes) -> Path:
        self._scratch.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._counter += 1
            path = self._scratch / str(self._counter)
        try:
            with path.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path

    def _make_folder(self, folder: Path) -> None:
        """Create a folder of the output and note that it, and every parent that is new, is to be synced."""
        with self._lock:
            if folder in self._unsynced:
                return
        missing = [folder, *(parent for parent in folder.parents if not parent.exists())]
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._unsynced.update(missing)


def check_writable(store: Store, attempt: str) -> None:
    """Fail now, with a clear reason, when nothing can be written.

    Raises:
        ConfigurationError: The store refuses to be written to.
        StorageError: Out of reach, or no space left.
    """
    key = f"{PRIVATE_FOLDER}/tmp/{attempt}.probe"
    try:
        store.put(key, b"probe")
        store.delete(key)
    except ObjectError as exc:
        raise ConfigurationError(
            f"output {store.url} cannot be written ({exc}): give another folder, or the right to write to it"
        ) from exc


def _walk(folder: Path, prefix: str, skip: str | None) -> Iterator[StoredObject]:
    """Depth first, a folder in the place that its name with a slash has in the order of S3."""
    with _mapped_errors(folder, prefix), suppress(FileNotFoundError):
        with os.scandir(folder) as scan:
            entries = [(entry, entry.is_dir(follow_symlinks=False)) for entry in scan]
        entries.sort(key=lambda pair: os.fsencode(pair[0].name + ("/" if pair[1] else "")))
        for entry, is_folder in entries:
            key = prefix + entry.name
            if is_folder and key != skip:
                yield from _walk(folder / entry.name, key + "/", skip)
            elif not is_folder and entry.is_file():
                status = entry.stat()
                yield StoredObject(key=key, size=status.st_size, modified_s=status.st_mtime)


@contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _mapped_errors(root: Path, key: str) -> Iterator[None]:
    """Turn what the operating system raises into what this project raises."""
    try:
        yield
    except FileNotFoundError as exc:
        raise ObjectMissingError(f"{root}/{key}: no such file") from exc
    except PermissionError as exc:
        raise ObjectRefusedError(f"{root}/{key}: permission denied") from exc
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(f"no space left on {root}: free some, then give the same command again") from exc
        raise StorageError(f"{root}/{key}: {exc.strerror}; the same command goes on when it is mended") from exc
