from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from job.system.cuda_driver import CudaDriver, Gpu, cuda_driver, device_memory_used

OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n"
MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version:\n"


class FakeCuda:
    """The functions of libcuda, of libnvidia-ml too, that are called."""

    def __init__(self, version: int = 13000, gpus: tuple[Gpu, ...] = (Gpu("NVIDIA H100", (9, 0)),)) -> None:
        self.version = version
        self.gpus = gpus
        self.init_status = 0

    def cuInit(self, flags: int) -> int:  # noqa: N802 (the driver's names)
        return self.init_status

    def cuDriverGetVersion(self, number: Any) -> int:  # noqa: N802
        number._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        name.value = self.gpus[device.value].name.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = self.gpus[device.value].capability[attribute - 75]
        return 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, size: int) -> int:  # noqa: N802
        text.value = b"551.23"
        return 0


def no_library(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(("text", "version"), [(OPEN_MODULE, "580.65.06"), (MODULE, "535.129.03"), ("?", "551.23")])
def test_the_driver_gives_its_version_and_its_gpus(tmp_path: Path, text: str, version: str) -> None:
    (tmp_path / "version").write_text(text)
    gpus = (Gpu("Tesla V100", (7, 0)), Gpu("NVIDIA H100", (9, 0)))
    found = cuda_driver(lambda name: FakeCuda(12020, gpus), tmp_path / "version")
    assert found == CudaDriver(version, (12, 2), gpus)


def test_a_driver_that_does_not_start_still_gives_its_version(tmp_path: Path) -> None:
    fake = FakeCuda(12020)
    fake.init_status = 803
    assert cuda_driver(lambda name: fake, tmp_path / "missing") == CudaDriver("551.23", (12, 2), ())


def test_a_machine_without_a_driver_gives_none(tmp_path: Path) -> None:
    assert cuda_driver(no_library, tmp_path / "missing") is None
    assert device_memory_used(no_library) is None


def test_the_real_machine_is_queried() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert cuda_driver() is None
    else:
        assert cuda_driver() is not None
