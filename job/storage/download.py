"""Downloads objects that are too large for memory, in parts."""

from __future__ import annotations

import os
from pathlib import Path

from job.storage.store import Store
from job.system.watchdog import OnProgress

PART_BYTES = 16 << 20


def download(
    store: Store, key: str, path: Path, *, size: int | None = None, on_progress: OnProgress = lambda: None
) -> None:
    """Append the missing bytes of an object to a file, and fsync it.

    Args:
        store: Holds the object.
        key: Of the object.
        path: The file; its content is taken as the beginning of the object.
        size: Of the object in bytes; None to read to its end.
        on_progress: Called after every part.

    Raises:
        ObjectMissingError: There is no such object.
        ObjectRefusedError: This user may not read it.
    """
    with path.open("ab") as stream:
        while (left := PART_BYTES if size is None else size - stream.tell()) > 0:
            part = store.read_range(key, stream.tell(), min(PART_BYTES, left))
            if not part:
                break
            stream.write(part)
            stream.flush()
            on_progress()
        os.fsync(stream.fileno())
