"""Errors of the operating system as errors of this project, and the retry of reads that a device fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from job.errors import (
    ObjectMissingError,
    ObjectRefusedError,
    ReadOnlyStorageError,
    StorageError,
    UnreadableObjectError,
    UnstorableObjectError,
)
from job.system.clock import Clock

RETRY_TIMEOUT_S = 10.0
"""Longest time for which one file or folder is retried."""
FIRST_PAUSE_S = 0.1
BAD_MEDIUM = frozenset({errno.EIO, errno.ESTALE, errno.ENXIO, errno.EBADMSG, errno.EUCLEAN, errno.EREMOTEIO})
"""A bad block, a stale handle of NFS, damaged metadata: one file may fail while others are served."""
BROKEN_LINK = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG})
"""What stat(2) of a symbolic link answers when the link leads nowhere or to itself."""
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNSTORABLE = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL})
"""EINVAL and EILSEQ: the name has characters that the file system does not store, such as `:` on exFAT."""

_T = TypeVar("_T")


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Map errors of the operating system about a file or folder."""
    try:
        yield
    except FileNotFoundError as exc:
        problem = "a symbolic link that leads nowhere" if path.is_symlink() else "no such file"
        raise ObjectMissingError(f"{path}: {problem}") from exc
    except PermissionError as exc:
        raise ObjectRefusedError(f"{path}: permission denied") from exc
    except OSError as exc:
        raise _mapped(exc, path) from exc


def _mapped(exc: OSError, path: Path) -> Exception:
    if exc.errno == errno.ELOOP:
        return ObjectMissingError(f"{path}: a symbolic link that leads to itself")
    if exc.errno == errno.EROFS:
        return ReadOnlyStorageError(
            f"{path}: the file system is mounted read-only: mount it writable, then rerun the same command to resume"
        )
    if exc.errno in _NO_SPACE:
        return StorageError(f"{path}: no space left: free some, then rerun the same command to resume")
    if exc.errno in _UNSTORABLE:
        return UnstorableObjectError(f"{path}: {exc.strerror}")
    return StorageError(f"{path}: {exc.strerror}: repair the storage, then rerun the same command to resume")


def retry_reads(read: Callable[[], _T], path: Path, root: Path, clock: Clock) -> _T:
    """Call a function that reads; retry it while the device fails it, for at most `RETRY_TIMEOUT_S`.

    Args:
        read: Reads a file or a folder.
        path: What it reads.
        root: Folder of the store.
        clock: Measures and waits.

    Raises:
        UnreadableObjectError: The device failed each try, and serves the root.
        StorageError: The device does not serve the root either.
        OSError: Any other failure of `read`.
    """
    deadline_s, pause_s = clock.monotonic_s() + RETRY_TIMEOUT_S, FIRST_PAUSE_S
    while True:
        try:
            return read()
        except OSError as exc:
            if exc.errno not in BAD_MEDIUM:
                raise
            left_s = deadline_s - clock.monotonic_s()
            if left_s <= 0:
                with mapped_errors(root):
                    os.stat(root)
                raise UnreadableObjectError(
                    f"{path}: cannot be read ({exc.strerror}), tried for {RETRY_TIMEOUT_S:.0f} s: "
                    "check the disk or the mount"
                ) from exc
        clock.sleep(min(pause_s, left_s))
        pause_s *= 2
