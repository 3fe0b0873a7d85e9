"""A real memory cgroup for tests, v1 or v2."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import wait_until

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path]:
    """The folder of a new cgroup with a limit; skips the test where the machine allows none."""
    root = _V1 if _V1.is_dir() else _V2
    folder = root / f"sam3-annotate-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this machine does not allow a new memory cgroup")
    try:
        name = "memory.limit_in_bytes" if root == _V1 else "memory.max"
        (folder / name).write_text(str(limit_bytes), encoding="ascii")
        yield folder
    finally:
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), 30)
        folder.rmdir()
