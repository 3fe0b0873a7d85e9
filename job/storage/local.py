"""A store on a local (or mounted) file system."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from job.errors import ObjectMissingError, ObjectRefusedError, StorageError, UnstorableObjectError, UsageError
from job.storage.keys import GROUP_SUFFIXES, ordered
from job.storage.store import PRIVATE_FOLDER, Fetched, Guard, Store, StoredObject

STALE_SCRATCH_S = 24 * 3600.0
_UNSTORABLE = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ}


class LocalStore:
    """A folder.

    Objects are written to `_sam3/tmp/<process_id>/` on the same file system, synced, then renamed into place or,
    for an exclusive create, hard-linked: `link(2)` fails when the name is taken and shows only whole files.
    """

    def __init__(self, root: Path, process_id: str) -> None:
        self._root = root.resolve()
        self._scratch = self._root / PRIVATE_FOLDER / "tmp" / process_id
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

    def list(self, prefix: str = "", skip: str | None = None, after: str = "") -> Iterator[StoredObject]:
        """See `Store.list`. Links to folders are not followed; one folder's names are held at a time."""
        folder = self._path(prefix) if prefix else self._root
        found = _walk(folder, f"{prefix.rstrip('/')}/" if prefix else "", skip)
        yield from (item for item in found if ordered(item.key) > ordered(after)) if after else found

    def list_dirs(self, prefix: str) -> tuple[str, ...]:
        """See `Store.list_dirs`."""
        with _mapped_errors(self._root, prefix):
            try:
                with os.scandir(self._path(prefix)) as entries:
                    return tuple(sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False)))
            except (FileNotFoundError, NotADirectoryError):
                return ()

    def existing_suffixes(self, stem: str) -> frozenset[str]:
        """See `Store.existing_suffixes`."""
        with _mapped_errors(self._root, stem):
            return frozenset(suffix for suffix in GROUP_SUFFIXES if self._path(stem + suffix).is_file())

    def read(self, key: str) -> bytes:
        """See `Store.read`."""
        with _mapped_errors(self._root, key):
            return self._path(key).read_bytes()

    def fetch(self, key: str) -> Fetched:
        """See `Store.fetch`."""
        return Fetched(self.read(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.read_range`."""
        with _mapped_errors(self._root, key), self._path(key).open("rb") as stream:
            stream.seek(start)
            return stream.read(length)

    def stat(self, key: str) -> StoredObject | None:
        """See `Store.stat`."""
        with _mapped_errors(self._root, key):
            try:
                status = self._path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return StoredObject(key=key, size=status.st_size, modified_s=status.st_mtime)

    def put(self, key: str, data: bytes, guard: Guard | None = None) -> None:
        """See `Store.put`."""
        with _mapped_errors(self._root, key):
            temporary, target = self._write_scratch(data), self._path(key)
            self._make_folder(target.parent)
            try:
                if guard is not None:
                    guard()
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def put_file(self, key: str, path: Path) -> None:
        """See `Store.put_file`; small enough here."""
        self.put(key, path.read_bytes())

    def copy_from(self, key: str, fetched: Fetched, guard: Guard | None = None) -> None:
        """See `Store.copy_from`."""
        self.put(key, fetched.data, guard)

    def create(self, key: str, data: bytes) -> bool:
        """See `Store.create`."""
        with _mapped_errors(self._root, key):
            temporary, target = self._write_scratch(data), self._path(key)
            self._make_folder(target.parent)
            try:
                os.utime(temporary)  # runs are ordered by this time; the file was written before its sync
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
        """Remove this process_id's temporary folder and those that dead processes left more than a day ago."""
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
            raise StorageError(f"no space left on {root}: free some, then rerun the same command to resume") from exc
        if exc.errno in _UNSTORABLE:
            raise UnstorableObjectError(f"{root}/{key}: {exc.strerror}") from exc
        raise StorageError(f"{root}/{key}: {exc.strerror}. Fix it, then rerun the same command to resume") from exc


def remove_empty_dirs(store: Store, *folders: str) -> None:
    """Remove folders in which nothing lies any more, in the order given; in an object store there are none.

    Not for folders in which another process may be about to write.
    """
    if isinstance(store, LocalStore):
        for folder in folders:
            with suppress(OSError):
                Path(store.url, folder).rmdir()
