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

from tests.cgroups import memory_cgroup
from tests.fakes import write_inputs
from tests.processes import results

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
def cgroup() -> Iterator[Path]:
    with memory_cgroup(LIMIT_BYTES) as folder:
        yield folder


def write_large_pictures(folder: Path, count: int) -> None:
    """Pictures of 24 megapixels with something in every part of them."""
    folder.mkdir()
    noise = np.random.default_rng(7).integers(0, 255, (150, 225, 3), np.uint8)
    for number in range(count):
        picture = Image.fromarray(np.roll(noise, number * 9, axis=1)).resize((6000, 4000), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:02d}.jpg", quality=80)
        (folder / f"{number:02d}.json").write_text("{}", encoding="ascii")


def test_pictures_of_24_megapixels_stay_inside_a_cgroup_limit(tmp_path: Path, cgroup: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    write_large_pictures(source, 12)
    inside = (
        f"import os, sys; open('{cgroup}/cgroup.procs', 'w').write(str(os.getpid())); "
        "os.execv(sys.executable, [sys.executable, '-m', 'job', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", inside, "--input_top_dir", str(source), "--out_top_dir", str(target)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert completed.returncode != -signal.SIGKILL, "the kernel ended it for memory"
    assert completed.returncode == 0, completed.stderr
    assert len(results(target)) == 36
    peak = next(path for name in PEAK_FILES if (path := cgroup / name).exists())
    sys.stdout.write(f"cgroup peak {int(peak.read_text()) >> 20} MiB of {LIMIT_BYTES >> 20} MiB, page cache included\n")
