"""A run whose output is a real vfat file system: names without case, no hard links."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from job.storage.local.probe import probe_file_system
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of, write_inputs
from tests.processes import results


@pytest.fixture
def vfat(tmp_path: Path) -> Iterator[Path]:
    """A mounted vfat image of 16 MiB; the test is skipped where this machine cannot make one."""
    if os.geteuid() != 0 or shutil.which("mkfs.vfat") is None:
        pytest.skip("a vfat mount needs root and mkfs.vfat")
    image, folder = tmp_path / "image", tmp_path / "vfat"
    image.write_bytes(bytes(16 << 20))
    folder.mkdir()
    subprocess.run(["mkfs.vfat", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop,utf8", image, folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"this kernel mounts no vfat: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_run_on_vfat_creates_by_rename_and_fails_the_second_name(
    vfat: Path, tmp_path: Path, fake_session: FakeSession
) -> None:
    traits = probe_file_system(LocalStore(vfat / "probed", "a"))
    assert traits is not None
    assert (traits.folds_case, traits.exclusive_create) == (True, "rename")
    source = tmp_path / "in"
    write_inputs(source, 2)
    for number, stem in enumerate(("Img", "img")):
        for suffix in (".jpg", ".json"):
            (source / f"{number:05}{suffix}").rename(source / f"{stem}{suffix}")
    with pytest.raises(Exception, match="1 of 2 inputs failed"):
        annotate(request_of(source, vfat / "out"), Tally())
    assert set(results(vfat / "out")) == {"Img.jpg", "Img.json", "Img.npz"}
