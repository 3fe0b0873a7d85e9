"""What the file system of an output does with names, hard links and fsync, found by trying it.

Object stores differ in none of this: they keep names byte by byte, create exclusively and need no fsync.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from job.errors import ConfigurationError
from job.storage.local.errors import mapped_errors
from job.storage.local.exclusive import move_exclusively
from job.storage.local.store import LocalStore, opened_folder, sync
from job.storage.store import Store

_CASE_NAME, _FORM_NAME = "Case", "\N{LATIN SMALL LETTER E WITH ACUTE}"


@dataclass(frozen=True)
class FileSystemTraits:
    """What a file system does.

    Attributes:
        folds_case: Names that differ only in case are one file (vfat, exFAT, SMB, APFS by default).
        folds_unicode: Names that differ only in Unicode normalization are one file (APFS, HFS+, casefolded ext4).
        exclusive_create: How a file is created exclusively; None if there is no way: a run is refused with 78.
        syncs_files: fsync(2) of a file is supported. If not, a power cut may lose files that a run counts as done.
        syncs_folders: The same of folders.
    """

    folds_case: bool = False
    folds_unicode: bool = False
    exclusive_create: Literal["hard link", "rename"] | None = "hard link"
    syncs_files: bool = True
    syncs_folders: bool = True

    @property
    def folds_names(self) -> bool:
        """Whether two different names may be one file."""
        return self.folds_case or self.folds_unicode


def probe_file_system(store: Store) -> FileSystemTraits | None:
    """Try what the file system of a local output supports; leaves nothing but the store's temporary folder.

    Returns:
        What was found, or None for an object store.

    Raises:
        ObjectRefusedError: This user may not write there.
        StorageError: Out of reach, or no space left.
    """
    if not isinstance(store, LocalStore):
        return None
    with _probe_folder(store) as folder:
        folds_case, folds_unicode = probe_folding(folder)
        with open(folder / "sync", "wb") as stream:
            syncs_files = sync(stream.fileno())
        with opened_folder(folder) as descriptor:
            syncs_folders = sync(descriptor)
        return FileSystemTraits(folds_case, folds_unicode, _exclusive_create(folder), syncs_files, syncs_folders)


def names_meet(store: LocalStore, one: str, other: str) -> bool:
    """Whether the file system takes two different keys for one.

    Args:
        store: The output.
        one: A key.
        other: A key with as many parts.
    """
    with _probe_folder(store) as folder:
        pairs = zip(one.split("/"), other.split("/"), strict=True)
        return all(_is_one_name(folder, first, second) for first, second in pairs if first != second)


def probe_folding(folder: Path) -> tuple[bool, bool]:
    """Whether a folder folds case, and Unicode normalization."""
    folds_unicode = _is_one_name(folder, _FORM_NAME, unicodedata.normalize("NFD", _FORM_NAME))
    return _is_one_name(folder, _CASE_NAME, _CASE_NAME.swapcase()), folds_unicode


def _is_one_name(folder: Path, one: str, other: str) -> bool:
    """False also where the file system stores no such name: nothing can be overwritten there."""
    path = folder / one
    with suppress(OSError):
        path.touch()
        is_one = os.path.lexists(folder / other)
        path.unlink()
        return is_one
    return False


def _exclusive_create(folder: Path) -> Literal["hard link", "rename"] | None:
    source, target = folder / "source", folder / "target"
    source.touch()
    try:
        move_exclusively(source, target)
    except ConfigurationError:
        return None
    return "hard link" if source.exists() else "rename"


@contextmanager
def _probe_folder(store: LocalStore) -> Iterator[Path]:
    """An empty folder in the store's temporary folder, removed at the end."""
    folder = store.scratch / "probe"
    with mapped_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
