"""Folders that are left empty: only file systems have such."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from job.storage.local import LocalStore
from job.storage.store import Store


def drop_if_empty(store: Store, *folders: str) -> None:
    """Remove folders in which nothing lies any more, in the order given; in an object store there are none.

    Not for folders in which another process may be about to write.
    """
    if isinstance(store, LocalStore):
        for folder in folders:
            with suppress(OSError):
                Path(store.url, folder).rmdir()
