"""NVIDIA's driver: its version, the CUDA version that it supports, and the GPUs that it shows to this process."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC_VERSION = Path("/proc/driver/nvidia/version")
_DRIVER_VERSION = re.compile(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_NAME_BYTES = 256
_VERSION_BYTES = 80

Load = Callable[[str], Any]


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG instance.

    Attributes:
        name: As in `NVIDIA H100 80GB HBM3`.
        capability: Compute capability, major and minor; (0, 0) if the driver does not answer.
    """

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class CudaDriver:
    """What the driver answers.

    Attributes:
        version: Version of the driver, as in `580.65.06`; empty if it is unknown.
        cuda: Newest CUDA version that it supports, major and minor; (0, 0) if it does not answer.
        gpus: The GPUs that this process sees; empty if the driver did not start.
    """

    version: str
    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


def load_driver(load: Load = ctypes.CDLL) -> Any | None:
    """The library of the driver, or None without a driver."""
    try:
        return load("libcuda.so.1")
    except OSError:
        return None


def number_of_gpus(driver: Any) -> int:
    """Number of GPUs, or MIG instances, that the driver shows (`cuDeviceGetCount`); 0 if it does not answer."""
    count = ctypes.c_int(0)
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def cuda_driver(load: Load = ctypes.CDLL, proc_version: Path = _PROC_VERSION) -> CudaDriver | None:
    """Query the CUDA driver API; None without a driver."""
    driver = load_driver(load)
    if driver is None:
        return None
    number = ctypes.c_int(0)
    has_version = driver.cuDriverGetVersion(ctypes.byref(number)) == 0
    cuda = (number.value // 1000, number.value % 1000 // 10) if has_version else (0, 0)
    return CudaDriver(_driver_version(load, proc_version), cuda, _gpus(driver))


def device_memory_used(load: Load = ctypes.CDLL) -> int | None:
    """Bytes of GPU 0's memory in use, by all processes; None without a GPU.

    ONNX Runtime and torch keep what they have allocated, so after their largest call this is the peak.
    """
    driver = load_driver(load)
    if driver is None:
        return None
    device, context = ctypes.c_int(0), ctypes.c_void_p()
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return None
        status = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return None if status else total.value - free.value


def _gpus(driver: Any) -> tuple[Gpu, ...]:
    return tuple(_gpu(driver, index) for index in range(number_of_gpus(driver)))


def _gpu(driver: Any, index: int) -> Gpu:
    device = ctypes.c_int(0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    if driver.cuDeviceGet(ctypes.byref(device), index):
        return Gpu("", (0, 0))
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int(0)
        failed = driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(0 if failed else value.value)
    return Gpu(name.value.decode(errors="replace"), (capability[0], capability[1]))


def _driver_version(load: Load, proc_version: Path) -> str:
    """By the kernel module, else by NVML: where /proc of the host is not shown (WSL)."""
    try:
        found = _DRIVER_VERSION.search(proc_version.read_text(encoding="ascii", errors="replace"))
        if found:
            return found[1]
    except OSError:
        pass
    try:
        nvml = load("libnvidia-ml.so.1")
    except OSError:
        return ""
    text = ctypes.create_string_buffer(_VERSION_BYTES)
    if nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(text, _VERSION_BYTES):
        return ""
    return text.value.decode(errors="replace")
