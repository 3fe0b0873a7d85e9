"""The folder of an artifact is created atomically."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from export.staging import staged_folder
from job.errors import StorageError, UsageError
from job.model.artifact import MANIFEST_NAME


def write_model(folder: Path, text: str) -> None:
    with staged_folder(folder) as staging:
        (staging / MANIFEST_NAME).write_text(text)


def fail_halfway(folder: Path, error: Exception) -> None:
    with staged_folder(folder) as staging:
        (staging / "half.onnx").touch()
        raise error


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_model_replaces_an_older_one_atomically(tmp_path: Path) -> None:
    write_model(tmp_path / "deep" / "model", "old")
    (tmp_path / "deep" / "model" / "stale.onnx").touch()
    write_model(tmp_path / "deep" / "model", "new")
    assert [path.name for path in (tmp_path / "deep" / "model").iterdir()] == [MANIFEST_NAME]
    assert (tmp_path / "deep" / "model" / MANIFEST_NAME).read_text() == "new"
    assert leftovers(tmp_path / "deep") == []


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model", "new")
    assert (tmp_path / "model" / MANIFEST_NAME).exists()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UsageError, match="neither empty nor a model"):
        write_model(tmp_path / "photos", "new")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(UsageError, match="is a file"):
        write_model(tmp_path / "model", "new")


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        pytest.param(OSError(errno.ENOSPC, "full"), StorageError, "no space left", id="full disk"),
        pytest.param(OSError(errno.EIO, "broken"), StorageError, "cannot be written", id="broken disk"),
        pytest.param(RuntimeError("bug"), RuntimeError, "bug", id="anything else"),
    ],
)
def test_a_failed_export_keeps_the_old_model(
    tmp_path: Path, error: Exception, expected: type[Exception], words: str
) -> None:
    write_model(tmp_path / "model", "old")
    with pytest.raises(expected, match=words):
        fail_halfway(tmp_path / "model", error)
    assert (tmp_path / "model" / MANIFEST_NAME).read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("graph_format", "largest_file"), [("onnx", 1 << 20), ("torchscript", 2 << 20)])
def test_a_full_disk_is_a_storage_error(tmp_path: Path, graph_format: str, largest_file: int) -> None:
    program = (
        "import resource, sys; from export.cli import export; from job.errors import StorageError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, {largest_file}))\n"
        "try: export.main(sys.argv[1:], standalone_mode=False)\n"
        "except StorageError as exc: sys.exit(f'storage: {exc}')"
    )
    flags = ["--checkpoint", "demo", "--device", "cpu", "--format", graph_format, "--out", str(tmp_path / "model")]
    run = subprocess.run(
        [sys.executable, "-c", program, *flags], capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 1
    assert "storage: " in run.stderr
    assert "cannot be written" in run.stderr
    assert list(tmp_path.iterdir()) == []
