"""The processor of this machine: its name and its instruction set."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_FAST_EXTENSIONS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
    "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""As the kernel names them; the last four are of Arm."""


def processor_name() -> str:
    """Name of the processor, as in `AMD EPYC 7763`."""
    return _field("model name") or platform.processor() or platform.machine()


def instruction_set() -> str:
    """Name the architecture and, by a digest, the instruction set extensions of the processor."""
    extensions = sorted((_field("flags") or _field("Features")).split())
    return f"{platform.machine()}-{hashlib.sha256(' '.join(extensions).encode()).hexdigest()[:16]}"


def instruction_names() -> tuple[str, ...]:
    """The extensions that decide the speed of matrix products, of those that the processor has; empty if unknown."""
    extensions = set((_field("flags") or _field("Features")).split())
    return tuple(name for name in _FAST_EXTENSIONS if name in extensions)


def computes_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16: AVX512-BF16 or AMX-BF16."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(instruction_names())


def multiplies_integers() -> bool:
    """Whether the processor multiplies 8-bit integers with exact sums: VNNI or AMX-INT8."""
    return not {"avx_vnni", "avx512_vnni", "amx_int8"}.isdisjoint(instruction_names())


def _field(name: str) -> str:
    """First value of a field of /proc/cpuinfo, or an empty string."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in fields if key.strip() == name), "")
