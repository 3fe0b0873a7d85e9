"""Pages of mapped files leave this process and come back when they are read."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from job.system.mapped_files import release_pages

SIZE = 8 << 20


def resident_bytes(path: Path) -> int:
    """Resident memory of the mappings of a file, by proc(5)."""
    total, is_file = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name = line.split(maxsplit=1)[0]
        if "-" in name and not name.endswith(":"):
            is_file = line.endswith(str(path))
        elif is_file and name == "Rss:":
            total += 1024 * int(line.split()[1])
    return total


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "weights of a model.data"
    file.write_bytes(bytes(range(256)) * (SIZE // 256))
    return file


def test_a_file_mapped_for_reading_leaves_memory_and_is_read_again(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        before = bytes(mapping)
        assert resident_bytes(path) == SIZE
        assert release_pages(path) == SIZE
        assert resident_bytes(path) == 0
        assert bytes(mapping) == before
        assert resident_bytes(path) == SIZE


def test_a_mapping_that_may_be_written_keeps_what_was_written(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        mapping[:4] = b"ours"
        assert release_pages(path) == 0
        assert mapping[:4] == b"ours"


def test_other_files_and_other_systems_are_left_alone(path: Path, tmp_path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        assert mapping[0] == 0
        assert release_pages(path.with_suffix(".other")) == 0
        assert release_pages(path, maps=tmp_path / "none") == 0
