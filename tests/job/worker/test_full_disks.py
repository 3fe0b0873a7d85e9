"""Outputs that fill up, are over quota or become read-only at any operation; then the same command resumes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from job.errors import AnnotateError, ConfigurationError, StorageError
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of
from tests.job.worker.conftest import UseSession
from tests.processes import results
from tests.tables import check_tables

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: root only")
OPERATIONS = ("mkdir", "fsync", "replace", "link", "utime")
"""Calls of the operating system through which a run writes; a write that fails shows at the fsync at the latest."""
PAGE, LARGE = 4096, 10 << 20


@pytest.fixture
def expected(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """The output of an undisturbed run."""
    annotate(request_of(source, tmp_path / "quiet"), Tally())
    return results(tmp_path / "quiet")


def check_whole(target: Path) -> None:
    """Every JSON that exists has its image and mask, whole."""
    for path in target.glob("*.json"):
        assert path.with_suffix(".jpg").stat().st_size
        with np.load(path.with_suffix(".npz")) as arrays:
            assert arrays["mask"].shape == (30, 40)


def fails_and_resumes(source: Path, target: Path, repair: Callable[[], None], expected: dict[str, bytes]) -> str:
    """Run into the fault, repair it, run again; returns the class of the error, or an empty text."""
    error: AnnotateError | None = None
    try:
        annotate(request_of(source, target, run_name="r"), Tally())
    except AnnotateError as exc:
        error = exc
    if error is not None:
        assert isinstance(error, StorageError | ConfigurationError), repr(error)
        assert str(target) in str(error)
    check_whole(target)
    repair()
    end = annotate(request_of(source, target, run_name="r"), Tally())
    assert end is not None
    assert (end.outcome, end.failed) == ("succeeded", 0)
    assert results(target) == expected
    assert len(check_tables(LocalStore(target, "reader"))) == len(expected) // 3
    return "" if error is None else type(error).__name__


class Faults:
    """Fails every operation below a folder from one number on."""

    def __init__(self, folder: Path, code: int, patch: pytest.MonkeyPatch) -> None:
        self.first, self.count = sys.maxsize, 0
        self._folder, self._code = str(folder), code
        for name in OPERATIONS:
            patch.setattr(os, name, self._failing(name, getattr(os, name)))

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else str(args[-1 if len(args) > 1 else 0])
            path = str(args[0]) if name == "mkdir" else path
            if path.startswith(self._folder):
                self.count += 1
                if self.count >= self.first:
                    raise OSError(self._code, os.strerror(self._code), path)
            return real(*args, **options)

        return call


@pytest.mark.parametrize(
    ("code", "step"),
    [
        pytest.param(errno.ENOSPC, 41, id="full"),
        pytest.param(errno.EDQUOT, 61, id="over quota"),
        pytest.param(errno.EROFS, 61, id="read-only"),
        pytest.param(errno.ENOSPC, 1, id="full at every one", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_an_error_at_every_operation_from_one_on(
    source: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, code: int, step: int
) -> None:
    faults = Faults(tmp_path / "try", code, monkeypatch)
    annotate(request_of(source, tmp_path / "try" / "count"), Tally())
    operations, kinds = faults.count, list[str]()
    assert operations > 50
    for number in range(1, operations, step):
        faults.count, faults.first = 0, number
        kinds.append(fails_and_resumes(source, tmp_path / "try" / str(number), lambda: repair(faults), expected))
    sys.stdout.write(f"{os.strerror(code)} at {len(kinds)} of {operations} operations: {sorted(set(kinds))}\n")
    assert kinds.count("") <= 3, "only the last operations may be without effect"


def repair(faults: Faults) -> None:
    faults.first = sys.maxsize


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A tmpfs; yields a function that mounts it again with other options."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)

    def remount(new: str) -> None:
        for _ in range(100):  # busy while a file is open for writing
            if subprocess.run(["mount", "-o", f"remount,{new}", folder], capture_output=True).returncode == 0:
                return
            time.sleep(0.01)
        raise AssertionError(f"cannot be mounted again as {new}")

    try:
        yield remount
    finally:
        with suppress(OSError):
            subprocess.run(["umount", "--lazy", folder], check=True)


@AS_ROOT
@pytest.mark.parametrize(
    ("limit", "step"),
    [
        pytest.param("size", 11, id="pages"),
        pytest.param("nr_inodes", 11, id="files"),
        pytest.param("size", 1, id="every page", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param("nr_inodes", 1, id="every file", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_a_file_system_that_is_full_at_every_size(
    source: Path, tmp_path: Path, expected: dict[str, bytes], limit: str, step: int
) -> None:
    """Real writes that fail: the file system has room for some pages, or some files, more each time."""
    outcomes = []
    for room in range(2, 200, step):
        full, larger = f"{limit}={room * (PAGE if limit == 'size' else 1)}", f"{limit}={LARGE}"
        with mounted(tmp_path / f"{limit}-{room}", full) as remount:
            target = tmp_path / f"{limit}-{room}" / "out"
            outcomes.append(fails_and_resumes(source, target, partial(remount, larger), expected))
        if not outcomes[-1]:
            break
    sys.stdout.write(f"{limit}: failed {len(outcomes) - 1} times: {sorted(set(outcomes))}\n")
    assert len(outcomes) >= 30 // step
    assert outcomes[-1] == "", "at last there is room"


@AS_ROOT
def test_an_output_that_becomes_read_only_in_the_middle(
    source: Path, tmp_path: Path, expected: dict[str, bytes], use_session: UseSession
) -> None:
    with mounted(tmp_path / "disk", "size=10M") as remount:

        def before_image(pixels: NDArray[np.uint8]) -> None:
            if session.images == 2:
                remount("ro")

        session = use_session(FakeSession(before_image=before_image))
        failed = fails_and_resumes(source, tmp_path / "disk" / "out", lambda: remount("rw"), expected)
    assert failed
