"""A listing of a local folder in the order of S3, with what file systems put into it."""

from __future__ import annotations

import logging
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from job.errors import ConfigurationError, ObjectMissingError, ObjectRefusedError, UnstorableObjectError
from job.storage.keys import JSON_SUFFIX, split_key
from job.storage.local.errors import BROKEN_LINK, mapped_errors, retry_reads
from job.storage.store import FolderTest, StoredObject
from job.system.clock import Clock

logger = logging.getLogger(__name__)

_SYSTEM_FOLDER = re.compile(r"lost\+found|\.Trash.*|\.snapshot|\$RECYCLE\.BIN")
"""Made by mkfs, by desktops (deleted files), by file servers (earlier versions of all files), by Windows."""


class LocalListing:
    """Lists the files of a folder; keeps the names of one folder of each depth in memory."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._skipped: set[str] = set()
        self._folds_names: bool | None = None
        self._last_names: tuple[Path, int, frozenset[str]] | None = None

    def files(self, prefix: str, skip: str | None, is_optional: FolderTest) -> Iterator[StoredObject]:
        """Files in a folder, depth first, ascending: a folder sorts as its name with a slash.

        Args:
            prefix: Key of the folder with a slash at its end; empty for the root.
            skip: Key of a folder to leave out.
            is_optional: Whether a folder may be left out if it cannot be listed.

        Raises:
            ConfigurationError: A folder may not be listed and is not optional.
            StorageError: A folder cannot be read.
        """
        folder = self._root / prefix
        try:
            for entry, is_folder in self._entries(folder):
                key = prefix + entry.name
                if not is_folder:
                    found = _listed(entry, key)
                    if found is not None:
                        yield found
                elif key != skip and not self._is_system_folder(entry):
                    yield from self.files(key + "/", skip, is_optional)
        except ObjectRefusedError as exc:
            if not prefix or not is_optional(prefix):
                raise _refused(folder) from exc
            self._warn_once(str(folder), "Skipping folder %s: permission denied, and --exclude leaves it out")

    def has_exact_name(self, path: Path) -> bool:
        """Whether a file that was found has exactly this path; a file system that folds names finds others too.

        Args:
            path: Of an existing file, below the root.
        """
        if self._folds_names is None:
            self._folds_names = self._is_folded(path)
        if not self._folds_names and (str(path).isascii() or not self._is_folded(path)):
            return True
        parts = [path, *path.parents][: len(path.relative_to(self._root).parts)]
        return all(part.name in self._names(part.parent) for part in parts)

    def _is_folded(self, path: Path) -> bool:
        """Whether the file is also found by a name that its folder does not list.

        Inode numbers do not tell: FUSE gives each name one of its own.
        """
        name = path.name
        others = {name.swapcase(), unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)} - {name}
        found = {other for other in others if os.path.lexists(path.with_name(other))}
        return bool(found) and (name not in self._names(path.parent) or not found <= self._names(path.parent))

    def _names(self, folder: Path) -> frozenset[str]:
        """Names in a folder; those of the folder that was read last are kept until the folder changes."""
        known = self._last_names
        with suppress(FileNotFoundError):
            changed_ns = os.stat(folder).st_mtime_ns
            if known is None or known[:2] != (folder, changed_ns):
                known = self._last_names = (folder, changed_ns, frozenset(os.listdir(folder)))
            return known[2]
        return frozenset()

    def _entries(self, folder: Path) -> list[tuple[os.DirEntry[str], bool]]:
        def scan() -> list[tuple[os.DirEntry[str], bool]]:
            with os.scandir(folder) as entries:
                return [(entry, _is_folder(entry)) for entry in entries]

        try:
            with mapped_errors(folder):
                entries = retry_reads(scan, folder, self._root, self._clock)
        except ObjectMissingError:
            return []
        except UnstorableObjectError as exc:
            if isinstance(exc.__cause__, NotADirectoryError):
                return []
            raise ConfigurationError(f"{exc}: this folder cannot be listed. Give it a shorter path or name") from exc
        return sorted(entries, key=lambda pair: os.fsencode(pair[0].name + ("/" if pair[1] else "")))

    def _is_system_folder(self, entry: os.DirEntry[str]) -> bool:
        is_system_folder = _SYSTEM_FOLDER.fullmatch(entry.name) is not None
        if is_system_folder:
            self._warn_once(entry.path, "Skipping folder %s: it belongs to the file system")
        return is_system_folder

    def _warn_once(self, path: str, text: str) -> None:
        if path not in self._skipped:
            self._skipped.add(path)
            logger.warning(text, path)


def _refused(folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"folder {folder} cannot be listed: permission denied. Give this user the right to read and search it, "
        "or leave it out with --exclude"
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False also for an entry whose status cannot be read."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _listed(entry: os.DirEntry[str], key: str) -> StoredObject | None:
    """A file, or None for what is no input and no output.

    Raises:
        ObjectRefusedError: The folder may be read but not searched.
    """
    try:
        status = entry.stat()
    except OSError as exc:
        is_link = entry.is_symlink()
        if exc.errno in BROKEN_LINK:
            is_input = is_link and key.endswith(JSON_SUFFIX)
            return StoredObject(key, 0, 0.0, fault="broken_link") if is_input else None
        if isinstance(exc, PermissionError) and not is_link:
            with mapped_errors(Path(entry.path)):
                raise
        return StoredObject(key, 0, 0.0, fault="no_status") if split_key(key)[1] else None
    return StoredObject(key, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None
