"""Atomic creation of an artifact's folder."""

from __future__ import annotations

import errno
import shutil
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from job.errors import StorageError, UsageError
from job.model.artifact import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to write to; it is renamed to `target` when the block succeeds and removed when it fails.

    Raises:
        UsageError: `target` is neither an artifact nor an empty folder.
        StorageError: The disk is full or cannot be written.
    """
    _check_target(target)
    staging = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        try:
            staging.mkdir(parents=True)
            yield staging
            _replace(target, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as exc:
        raise _storage_error(target, exc) from exc


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"--out {target} is a file: give a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST_NAME).is_file():
        raise UsageError(f"--out {target} is neither empty nor a model: give another folder")


def _replace(target: Path, staging: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    old = staging.with_suffix(".old")
    target.rename(old)
    staging.rename(target)
    shutil.rmtree(old)


def _storage_error(target: Path, exc: OSError) -> StorageError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left for the model {target}; nothing was kept. Make room and export again")
    return StorageError(f"model {target} cannot be written: {exc}. Nothing was kept")
