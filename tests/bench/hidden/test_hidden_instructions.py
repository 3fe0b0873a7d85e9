"""ONNX Runtime's own kernels for AVX2, on a processor with more: int8 saturates there, and the exact mode is chosen."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.hidden.hidden_instructions import hide

CODE = """
import onnxruntime
from job.model import integer_kernels as kernels
print(onnxruntime.__file__)
print(kernels.is_exact(kernels.probe("0")), kernels.is_exact(kernels.probe("1")), kernels._exact_mode())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="kernels of x86-64")
@pytest.mark.skipif(not shutil.which("gcc") or not shutil.which("objdump"), reason="needs gcc and objdump")
def test_without_vnni_the_int8_kernels_saturate_and_the_exact_ones_are_chosen(tmp_path: Path) -> None:
    environment = hide(tmp_path)
    command = [sys.executable, "-c", CODE]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    package, answers = completed.stdout.splitlines()
    assert Path(package).is_relative_to(tmp_path)
    assert answers == "False True 1"
