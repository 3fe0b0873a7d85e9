"""A memory limit of a real cgroup below what the model needs: 78 before the model is loaded."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cgroups import memory_cgroup
from tests.fakes import write_inputs

ENTER = (
    "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid())); "
    "os.execv(sys.executable, [sys.executable, '-m', 'job', *sys.argv[2:]])"
)


@pytest.mark.parametrize(
    "runtime",
    [
        "onnx",
        pytest.param("openvino", marks=pytest.mark.skipif(find_spec("openvino") is None, reason="not installed")),
    ],
)
def test_a_limit_below_the_need_ends_with_78_before_the_model_is_loaded(runtime: str, tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", 1)
    flags = ["--input_top_dir", str(tmp_path / "in"), "--out_top_dir", str(tmp_path / "out"), "--runtime", runtime]
    with memory_cgroup(128 << 20) as cgroup:
        command = [sys.executable, "-c", ENTER, str(cgroup), *flags, "--device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 78, done.stderr
    assert "of memory with one image in flight" in done.stderr
    assert "the memory limit leaves this process 128 MiB" in done.stderr
    assert "Loading SAM3 model" not in done.stderr
    assert not (tmp_path / "out").exists()
