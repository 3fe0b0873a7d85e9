"""Why a GPU cannot run a model: what this node can never do, what may pass, and what is too large."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.errors import ConfigurationError, DeviceError, DeviceMemoryError, UnusableDeviceError
from job.system.cuda_driver import CudaDriver, Gpu, cuda_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DRIVER_OF_CUDA = {11: "450", 12: "525", 13: "580"}
"""Oldest driver of each major version of CUDA (CUDA Toolkit Release Notes, minor version compatibility)."""
_PERMANENT = (
    "no kernel image is available",
    "driver version is insufficient",
    "forward compatibility was attempted on non supported hw",
    "unsupported toolchain",
)
"""Texts of CUDA errors 209, 35, 804 and 222: another try gives the same answer."""
_MEMORY = ("out of memory", "failed to allocate memory", "alloc_failed", "bad_alloc", "bad allocation")


_CUDA_SENTENCE = re.compile(r"(CUDA (?:failure|error) .+?)(?: ; GPU=|$)")


@dataclass(frozen=True)
class GpuNeeds:
    """What a runtime needs of a GPU.

    Attributes:
        library: Its name and version, as in `onnxruntime-gpu 1.32.0`.
        cuda: CUDA version that it was built for, major and minor; None if that is unknown.
        capability: Smallest compute capability that it has kernels for.
    """

    library: str
    cuda: tuple[int, int] | None
    capability: tuple[int, int]


def device_failure(device: str, library: str, error: BaseException) -> DeviceError:
    """Our error for one that a runtime raised on a device."""
    message = f"--device {device}: {library} failed: {error}"
    is_memory = any(word in str(error).lower() for word in _MEMORY)
    return DeviceMemoryError(message) if is_memory else DeviceError(message)


@contextmanager
def unusable_devices(needs: GpuNeeds, driver: Callable[[], CudaDriver | None] = cuda_driver) -> Iterator[None]:
    """Find out whether a device error inside the block can ever pass on this node.

    Raises:
        UnusableDeviceError: It cannot.
    """
    try:
        yield
    except UnusableDeviceError:
        raise
    except DeviceError as exc:
        reason = why_unusable(needs, driver(), str(exc))
        if reason is None:
            raise
        raise UnusableDeviceError(reason) from exc


def why_unusable(needs: GpuNeeds, driver: CudaDriver | None, words: str) -> str | None:
    """Explain why this node can never run a runtime; None if it may.

    Args:
        needs: Of the runtime.
        driver: What the driver answers; None without a driver.
        words: Message of the runtime's own error; empty to judge by the driver alone.
    """
    if driver is None:
        return None
    found = _too_old(needs, driver) or _without_kernels(needs, driver)
    if found is None and any(word in words.lower() for word in _PERMANENT):
        found = f"{_name_of(driver)} cannot run the kernels of {needs.library}"
    if found is None:
        return None
    said = f" The runtime's message: {_essence(words)}." if words else ""
    version = f"NVIDIA driver {driver.version or 'of unknown version'} (CUDA {_dotted(driver.cuda)})"
    return (
        f"--device cuda: this node cannot run the model: {found}. Found: {version}; needed: {_needed(needs)}.{said} "
        "Another try on this node gives the same answer: use a node with a newer driver or GPU, or give --device cpu"
    )


@contextmanager
def unusable_device_is_configuration(*, is_indexed: bool) -> Iterator[None]:
    """Map a device that can never work: without an index no other node will try.

    Raises:
        ConfigurationError: The device can never work, and this process has no index.
    """
    try:
        yield
    except UnusableDeviceError as exc:
        if is_indexed:
            raise
        raise ConfigurationError(str(exc)) from exc


def _essence(words: str) -> str:
    """CUDA's own sentence, without the names of functions and files that ONNX Runtime puts around it."""
    line = " ".join(words.split())
    found = _CUDA_SENTENCE.search(line)
    return (found[1] if found else line).rstrip(" .;")


def _too_old(needs: GpuNeeds, driver: CudaDriver) -> str | None:
    if needs.cuda is None or driver.cuda == (0, 0) or driver.cuda[0] >= needs.cuda[0]:
        return None
    return f"the driver is too old for {needs.library}, which is built for CUDA {_dotted(needs.cuda)}"


def _without_kernels(needs: GpuNeeds, driver: CudaDriver) -> str | None:
    gpu = driver.gpus[0] if driver.gpus else Gpu("", (0, 0))
    if gpu.capability == (0, 0) or gpu.capability >= needs.capability:
        return None
    return f"{_name_of(driver)} is older than the kernels of {needs.library}"


def _name_of(driver: CudaDriver) -> str:
    gpu = driver.gpus[0] if driver.gpus else Gpu("the GPU", (0, 0))
    return f"{gpu.name} (compute capability {_dotted(gpu.capability)})"


def _needed(needs: GpuNeeds) -> str:
    parts = [f"compute capability {_dotted(needs.capability)} or newer"]
    if needs.cuda is not None:
        oldest = _DRIVER_OF_CUDA.get(needs.cuda[0])
        by_driver = f"driver {oldest} or newer" if oldest else f"a driver for CUDA {_dotted(needs.cuda)}"
        parts.insert(0, by_driver)
    return ", ".join(parts)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
