"""A store on a local (or mounted) file system."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from job.errors import ConfigurationError, UsageError
from job.storage.keys import GROUP_SUFFIXES, ordered
from job.storage.local.errors import mapped_errors, retry_reads
from job.storage.local.exclusive import move_exclusively
from job.storage.local.listing import LocalListing
from job.storage.store import PRIVATE_FOLDER, Fetched, FolderTest, Guard, Store, StoredObject, no_folder
from job.system.clock import SYSTEM_CLOCK, Clock

logger = logging.getLogger(__name__)

_COPY_BYTES = 1 << 20
STALE_SCRATCH_S = 24 * 3600.0
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF})
"""What fsync(2) answers where the file system does not support it, for folders above all (CIFS, sshfs)."""


class LocalStore:
    """A folder.

    An object is written to `_sam3/tmp/<process_id>/` on the same file system and synced. Then it is renamed into
    place; an exclusive create uses a hard link, or a rename that never replaces (see job.storage.local.exclusive).
    """

    def __init__(self, root: Path, process_id: str, clock: Clock = SYSTEM_CLOCK) -> None:
        """Touch nothing.

        Args:
            root: The folder.
            process_id: Name of this process's temporary folder.
            clock: Measures retries of reads.

        Raises:
            UsageError: The path is a symbolic link that leads to itself.
        """
        try:
            self._root = root.resolve()
        except RuntimeError as exc:
            raise UsageError(f"{root} is a symbolic link that leads to itself: give the path of a folder") from exc
        self._scratch = self._root / PRIVATE_FOLDER / "tmp" / process_id
        self._clock = clock
        self._listing = LocalListing(self._root, clock)
        self._lock = threading.Lock()
        self._counter = 0
        self._unsynced: set[Path] = set()

    @property
    def url(self) -> str:
        """Absolute path of the folder."""
        return str(self._root)

    @property
    def scratch(self) -> Path:
        """This process's temporary folder; created by the first write, removed by `close`."""
        return self._scratch

    def exists(self) -> bool:
        """Whether the folder exists.

        Raises:
            ConfigurationError: This user may not search one of its parents.
        """
        try:
            return self._root.is_dir()
        except PermissionError as exc:
            raise ConfigurationError(
                f"{self._root}: permission denied: give this user the right to search its parent folders"
            ) from exc

    def list(
        self, prefix: str = "", skip: str | None = None, after: str = "", is_optional: FolderTest = no_folder
    ) -> Iterator[StoredObject]:
        """See `Store.list`. Links to folders are not followed; folders of the file system itself are left out."""
        found = self._listing.files(f"{prefix.rstrip('/')}/" if prefix else "", skip, is_optional)
        yield from (item for item in found if ordered(item.key) > ordered(after)) if after else found

    def list_dirs(self, prefix: str) -> tuple[str, ...]:
        """See `Store.list_dirs`.

        Raises:
            ConfigurationError: This user may not list the folder.
        """
        folder = self._path(prefix)

        def scan() -> tuple[str, ...]:
            with os.scandir(folder) as entries:
                return tuple(sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False)))

        with mapped_errors(folder):
            try:
                return retry_reads(scan, folder, self._root, self._clock)
            except (FileNotFoundError, NotADirectoryError):
                return ()
            except PermissionError as exc:
                raise ConfigurationError(f"{folder}: permission denied: give this user the right to list it") from exc

    def existing_suffixes(self, stem: str, among: Sequence[str] = GROUP_SUFFIXES) -> frozenset[str]:
        """See `Store.existing_suffixes`. Names are compared exactly, also where the file system folds them."""
        path = self._path(stem)
        files = {suffix: self._path(stem + suffix) for suffix in among}

        def look() -> frozenset[str]:
            found = [suffix for suffix, file in files.items() if file.is_file()]
            return frozenset(suffix for suffix in found if self._listing.has_exact_name(files[suffix]))

        with mapped_errors(path):
            return retry_reads(look, path, self._root, self._clock)

    def read(self, key: str) -> bytes:
        """See `Store.read`; a read that the device fails is retried for 10 s.

        Raises:
            UnreadableObjectError: The device fails each try, and serves the folder.
        """
        path = self._path(key)
        with mapped_errors(path):
            return retry_reads(path.read_bytes, path, self._root, self._clock)

    def fetch(self, key: str) -> Fetched:
        """See `Store.fetch`."""
        return Fetched(self.read(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.read_range`; retries as `read`."""
        path = self._path(key)

        def read() -> bytes:
            with path.open("rb") as stream:
                stream.seek(start)
                return stream.read(length)

        with mapped_errors(path):
            return retry_reads(read, path, self._root, self._clock)

    def stat(self, key: str) -> StoredObject | None:
        """See `Store.stat`."""
        path = self._path(key)
        with mapped_errors(path):
            try:
                status = retry_reads(path.stat, path, self._root, self._clock)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return StoredObject(key=key, size=status.st_size, modified_s=status.st_mtime)

    def put(self, key: str, data: bytes, guard: Guard | None = None) -> None:
        """See `Store.put`."""
        self._put(key, lambda stream: stream.write(data), guard)

    def _put(self, key: str, write: Callable[[IO[bytes]], object], guard: Guard | None = None) -> None:
        target = self._path(key)
        with mapped_errors(target):
            temporary = self._write_scratch(write)
            try:
                self._make_folder(target.parent)
                if guard is not None:
                    guard()
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def put_file(self, key: str, path: Path) -> None:
        """See `Store.put_file`."""
        with path.open("rb") as source:
            self._put(key, lambda stream: shutil.copyfileobj(source, stream, _COPY_BYTES))

    def copy_from(self, key: str, fetched: Fetched, guard: Guard | None = None) -> None:
        """See `Store.copy_from`."""
        self.put(key, fetched.data, guard)

    def create(self, key: str, data: bytes) -> bool:
        """See `Store.create`.

        Raises:
            ConfigurationError: The file system supports no exclusive create of a whole file.
        """
        target = self._path(key)
        with mapped_errors(target):
            temporary = self._write_scratch(lambda stream: stream.write(data))
            try:
                self._make_folder(target.parent)
                os.utime(temporary)  # runs are ordered by this time; the file was written before its sync
                move_exclusively(temporary, target)
            except FileExistsError:
                return target.read_bytes() == data
            finally:
                temporary.unlink(missing_ok=True)
            return True

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        path = self._path(key)
        with mapped_errors(path):
            path.unlink(missing_ok=True)

    def flush(self) -> None:
        """Sync the folders in which names have changed; files are synced before they are renamed."""
        with self._lock:
            folders, self._unsynced = self._unsynced, set()
        for folder in folders:
            with mapped_errors(folder), opened_folder(folder) as descriptor:
                sync(descriptor)

    def now_s(self) -> float:
        """The file system's clock: the time of a file that is written for it."""
        with mapped_errors(self._scratch):
            probe = self._write_scratch(lambda stream: stream.write(b""))
            modified_s = probe.stat().st_mtime
            probe.unlink()
            return modified_s

    def close(self) -> None:
        """Remove this process's temporary folder and those that have not changed for a day."""
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

    def _write_scratch(self, write: Callable[[IO[bytes]], object]) -> Path:
        self._scratch.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._counter += 1
            path = self._scratch / str(self._counter)
        try:
            with path.open("wb") as stream:
                write(stream)
                stream.flush()
                sync(stream.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path

    def _make_folder(self, folder: Path) -> None:
        """Create a folder of the output; `flush` syncs it and the parents that gain a name."""
        with self._lock:
            if folder in self._unsynced:
                return
        changed = [folder]
        while not changed[-1].exists():
            changed.append(changed[-1].parent)
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._unsynced.update(changed)


def sync(descriptor: int) -> bool:
    """Sync a file or folder; returns whether the file system supports it.

    Raises:
        OSError: The device failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NO_SYNC:
            raise
        logger.debug("fsync is not supported here: %s", exc)
        return False
    return True


@contextmanager
def opened_folder(folder: Path) -> Iterator[int]:
    """A descriptor of a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove_empty_dirs(store: Store, *folders: str) -> None:
    """Remove folders that are empty, in the order given; an object store has no folders.

    Not for folders in which another process may be about to write.
    """
    if isinstance(store, LocalStore):
        for folder in folders:
            with suppress(OSError):
                Path(store.url, folder).rmdir()
