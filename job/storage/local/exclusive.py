"""Exclusive creation of whole local files: by a hard link, else by a rename that replaces nothing."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from job.errors import ConfigurationError

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP})
"""exFAT and vfat, gcsfuse, SMB, in this order. EPERM may also mean a missing permission: the rename tells."""
_NO_SUCH_RENAME = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
"""Constants of renameat2(2)."""


def move_exclusively(temporary: Path, target: Path) -> None:
    """Give a whole file its name if the name is free; the temporary name may remain.

    Both calls are atomic on the file system (of a network file system: on its server).

    Args:
        temporary: The file, on the same file system as `target`.
        target: Its name.

    Raises:
        FileExistsError: The name is taken.
        ConfigurationError: The file system supports neither call.
        OSError: Any other failure.
    """
    try:
        os.link(temporary, target)
    except OSError as exc:
        if exc.errno not in _NO_HARD_LINKS:
            raise
        rename_without_replacing(temporary, target)


def rename_without_replacing(source: Path, target: Path) -> None:
    """Rename a file if the target's name is free: renameat2(2) with RENAME_NOREPLACE; raises as `move_exclusively`."""
    renameat2 = _renameat2()
    failed = renameat2 is None or renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
    )
    if not failed:
        return
    code = errno.ENOSYS if renameat2 is None else ctypes.get_errno()
    if code in _NO_SUCH_RENAME:
        raise ConfigurationError(
            f"the file system of {target.parent} has no hard links and no rename that never replaces "
            "(RENAME_NOREPLACE), so a run cannot create its files exclusively: give an output folder on one that has "
            "(ext4, XFS, NFS, SMB or exFAT mounted by the Linux kernel), or an object store"
        )
    raise OSError(code, os.strerror(code), str(source), None, str(target))


@cache
def _renameat2() -> Callable[..., int] | None:
    """The C library's function, or None where it has none (musl, macOS)."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        function.restype = ctypes.c_int
    return function
