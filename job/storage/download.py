"""Files of a store that are too large for memory, brought here part by part."""

from __future__ import annotations

import os
from pathlib import Path

from job.storage.store import Store
from job.system.watchdog import OnProgress

PART_BYTES = 16 << 20


def download(
    store: Store, key: str, path: Path, *, size: int | None = None, on_progress: OnProgress = lambda: None
) -> None:
    """Append to a file what it lacks, and sync it.

    Args:
        store: Where the original is.
        key: What it is called there.
        path: The file; what it holds is taken for the beginning.
        size: Bytes of the original; None to go on to its end.
        on_progress: Told of every part.

    Raises:
        ObjectMissingError: There is no original.
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
