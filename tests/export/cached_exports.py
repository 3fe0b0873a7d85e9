"""Exports of the demo model that tests share: across test files, test processes and runs.

An export takes up to a minute. It is kept below `build/`, under a digest of the code and the checkpoint that made it.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "test-exports"
_SOURCES = ("export/**/*.py", "export/**/*.pt", "job/model/*.py", "job/formats/*.py", "requirements/dev.txt")


@cache
def code_digest() -> str:
    """sha256 over every file that an export depends on."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in ROOT.glob(pattern)):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def cached_export(name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder of an export, made once.

    Args:
        name: Of the export: format, precision, number of pictures.
        make: Writes the artifact to the folder that it is given.
    """
    folder = CACHE / code_digest() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{name}.lock")):
        if not folder.exists():
            draft = folder.with_name(f"{name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            make(draft)
            draft.rename(folder)
    return folder
