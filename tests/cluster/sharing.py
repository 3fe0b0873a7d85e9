"""What the processes of one test run share: parts of the cluster, and results that one of them computes."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def held(lock: Path, *, is_shared: bool = False) -> Iterator[None]:
    """Hold a lock that one process at a time can hold, or several that share it."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
        yield


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of the test run see."""
    own = factory.getbasetemp()
    return own.parent if own.name.startswith("popen-") else own


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder with what `make` writes into it: the first process makes it, the others wait."""
    with held(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = folder.with_suffix(".new")
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
