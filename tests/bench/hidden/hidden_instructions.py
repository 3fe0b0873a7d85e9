"""ONNX Runtime as on a processor with AVX2 alone, on one that has more.

ONNX Runtime chooses its kernels by the cpuid instruction and has no setting for it. This writes a copy of the package
whose cpuid instructions are replaced by ones that the processor does not know, and a library that answers them without
AVX512, VNNI and AMX. The kernels that then run are those of such a processor. It prints the environment for both, and
for torch and OpenVINO, which have settings: `python -m tests.bench.hidden.hidden_instructions FOLDER`. It needs gcc and
objdump.

This project reads /proc/cpuinfo as well: bind a copy without these flags over it, in a namespace (`unshare -m`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
_CPUID, _UNKNOWN = b"\x0f\xa2", b"\x0f\x0b"
SETTINGS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Settings of torch, its MKL and its oneDNN, and OpenVINO's oneDNN."""


def hide(folder: Path) -> dict[str, str]:
    """Write the copy and the library into a folder; returns the environment of a process that uses them.

    Raises:
        RuntimeError: onnxruntime is not installed, or its library has no cpuid instruction.
    """
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise RuntimeError("onnxruntime is not installed")
    copy = shutil.copytree(Path(spec.origin).parent, folder / "packages" / "onnxruntime")
    (library,) = copy.glob("capi/onnxruntime_pybind11_state*.so")
    _replace(library)
    answers = folder / "answers.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(answers), str(_SOURCE)], check=True)
    path = os.pathsep.join([str(folder / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"LD_PRELOAD": str(answers), "PYTHONPATH": path, **SETTINGS}


def _replace(library: Path) -> None:
    """Replace each cpuid instruction of a library, where the disassembler finds one, not wherever its bytes are."""
    headers = subprocess.run(["objdump", "-h", "-j", ".text", str(library)], capture_output=True, text=True, check=True)
    _, _, _, address, _, offset, *_ = next(line for line in headers.stdout.splitlines() if ".text" in line).split()
    command = ["objdump", "-d", "-j", ".text", "--no-show-raw-insn", str(library)]
    code = bytearray(library.read_bytes())
    found = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        for line in listing.stdout:
            if match := re.match(r"\s*([0-9a-f]+):\s+cpuid\b", line):
                at = int(match[1], 16) - int(address, 16) + int(offset, 16)
                assert code[at : at + 2] == _CPUID
                code[at : at + 2] = _UNKNOWN
                found += 1
    if listing.returncode or not found:
        raise RuntimeError(f"no cpuid instruction in {library}")
    library.write_bytes(code)


def main(folder: str) -> None:
    """Write into a new folder, and print the environment for `env`."""
    for name, value in hide(Path(folder).absolute()).items():
        sys.stdout.write(f"{name}={value}\n")


if __name__ == "__main__":
    main(sys.argv[1])
