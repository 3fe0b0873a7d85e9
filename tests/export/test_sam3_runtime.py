"""sam3 runs in the arithmetic that artifacts are held to."""

from __future__ import annotations

import subprocess
import sys

AMPERE = """
import types, warnings
from unittest.mock import patch
import torch
import triton

warnings.simplefilter("ignore")
properties = types.SimpleNamespace(major=9, minor=0)
with (
    patch("torch.cuda.is_available", lambda: True),
    patch("torch.cuda.current_device", lambda: 0),
    patch("torch.cuda.get_device_properties", lambda *arguments: properties),
):
    import sam3.model_builder

from export.sam3_runtime import running_on

backends = torch.backends.cuda.matmul, torch.backends.cudnn
print([backend.allow_tf32 for backend in backends])
with running_on("cpu"):
    print([backend.allow_tf32 for backend in backends])
print([backend.allow_tf32 for backend in backends])
"""


def test_the_original_runs_without_tensorfloat_32_on_an_ampere_gpu() -> None:
    """Importing sam3 turns it on, shown with the properties of such a GPU."""
    done = subprocess.run([sys.executable, "-c", AMPERE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-3:] == ["[True, True]", "[False, False]", "[True, True]"]
