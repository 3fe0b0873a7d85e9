"""Pages of files that this process has mapped and does not need in memory."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

_MAPS = Path("/proc/self/maps")


def release_pages(path: Path, maps: Path = _MAPS) -> int:
    """Take the pages of a file that is mapped for reading out of this process; a later access reads the file again.

    The kernel keeps them in its page cache as long as there is room, so another process maps them without a read.
    Mappings that this process may write are left as they are (madvise(2), `MADV_DONTNEED`). Systems without
    `/proc/self/maps` are left as they are.

    Args:
        path: The file.
        maps: The mappings of this process, by proc(5).

    Returns:
        Bytes of address space that were advised.
    """
    try:
        lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        libc = ctypes.CDLL(None, use_errno=True)
    except OSError:
        return 0
    name, advised = str(path.resolve()), 0
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[5] != name or "w" in fields[1]:
            continue
        start, end = (int(address, 16) for address in fields[0].split("-"))
        failed = libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
        advised += 0 if failed else end - start
    return advised
