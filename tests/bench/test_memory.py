"""Memory, as the kernel counts it: flat over a large folder, and inside a real cgroup limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fakes import write_inputs
from tests.processes import results

CGROUP_V1 = Path("/sys/fs/cgroup/memory")
CGROUP_V2 = Path("/sys/fs/cgroup")
COUNT = 10_000
LIMIT_BYTES = 400 << 20
"""Without a limit the same pictures take 420 MiB, with their heaps as glibc keeps them 610 MiB."""
PEAK_FILES = ("memory.max_usage_in_bytes", "memory.peak")


def resident_bytes(process_id: int) -> int:
    fields = Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def annotated_files(target: Path) -> int:
    return sum(1 for entry in os.scandir(target) if entry.name.endswith(".npz")) if target.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_memory_after_ten_thousand_images_is_that_after_one_thousand(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    write_inputs(source, COUNT, (160, 120))
    command = [sys.executable, "-m", "job", "--input_top_dir", str(source), "--out_top_dir", str(target)]
    samples: list[tuple[int, int]] = []
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--prompts", "car"], stderr=log)
        while process.poll() is None:
            samples.append((annotated_files(target), resident_bytes(process.pid)))
            time.sleep(1)
    assert process.returncode == 0
    early = max(size for done, size in samples if 900 <= done <= 1500)
    late = max(size for done, size in samples if done >= COUNT - 1000)
    sys.stdout.write(f"resident after 1,000: {early >> 20} MiB, after {COUNT}: {late >> 20} MiB\n")
    assert late <= 1.1 * early
    lines = [
        line for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines() if "Processing images" in line
    ]
    assert len(lines) >= COUNT // 1000, "the progress lines keep up"


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A real memory cgroup with a limit, v1 or v2."""
    root = CGROUP_V1 if CGROUP_V1.is_dir() else CGROUP_V2
    folder = root / f"sam3-annotate-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this machine does not allow a new memory cgroup")
    name = "memory.limit_in_bytes" if root == CGROUP_V1 else "memory.max"
    (folder / name).write_text(str(LIMIT_BYTES), encoding="ascii")
    yield folder
    folder.rmdir()


def write_large_pictures(folder: Path, count: int) -> None:
    """Pictures of 24 megapixels with something in every part of them."""
    folder.mkdir()
    noise = np.random.default_rng(7).integers(0, 255, (150, 225, 3), np.uint8)
    for number in range(count):
        picture = Image.fromarray(np.roll(noise, number * 9, axis=1)).resize((6000, 4000), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:02d}.jpg", quality=80)
        (folder / f"{number:02d}.json").write_text("{}", encoding="ascii")


def test_pictures_of_24_megapixels_stay_inside_a_cgroup_limit(tmp_path: Path, memory_cgroup: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    write_large_pictures(source, 12)
    inside = (
        f"import os, sys; open('{memory_cgroup}/cgroup.procs', 'w').write(str(os.getpid())); "
        "os.execv(sys.executable, [sys.executable, '-m', 'job', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", inside, "--input_top_dir", str(source), "--out_top_dir", str(target)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert completed.returncode != -signal.SIGKILL, "the kernel ended it for memory"
    assert completed.returncode == 0, completed.stderr
    assert len(results(target)) == 36
    peak = next(path for name in PEAK_FILES if (path := memory_cgroup / name).exists())
    sys.stdout.write(f"cgroup peak {int(peak.read_text()) >> 20} MiB of {LIMIT_BYTES >> 20} MiB, page cache included\n")
