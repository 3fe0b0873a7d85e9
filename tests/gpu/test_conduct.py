"""The worker's words about a GPU, with the errors of the released GPU build of ONNX Runtime on stub CUDA libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes import DEMO_ARTIFACT

if TYPE_CHECKING:
    from tests.gpu.stubs import StubGpu

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

OPEN = {"step": "open", "model": str(DEMO_ARTIFACT)}
OLD_DRIVER = (
    "(CUDA 12.2)",
    "driver 580 or newer",
    "message: CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version. Another try",
)
VOLTA = ("stub (compute capability 7.0)", "7.5 or newer", "no kernel image is available for execution on the device")


def run_step(gpu: StubGpu, request: dict[str, str], **device: int) -> dict[str, Any]:
    return gpu.run(request, module="tests.gpu.conduct", **device)


@pytest.mark.parametrize(
    ("device", "parts"),
    [pytest.param({"driver": 12020}, OLD_DRIVER, id="old driver"), pytest.param({"sm": 70}, VOLTA, id="Volta")],
)
def test_the_check_before_the_model_is_fetched_quotes_onnx_runtime(
    gpu: StubGpu, device: dict[str, int], parts: tuple[str, ...]
) -> None:
    found = run_step(gpu, {"step": "check"}, **device)
    assert found["error"] == "UnusableDeviceError"
    assert all(part in found["message"] for part in parts), found["message"]


def test_a_driver_that_is_too_old_is_told_when_the_model_is_opened(gpu: StubGpu) -> None:
    found = run_step(gpu, OPEN, driver=12020)
    assert found["error"] == "UnusableDeviceError"
    assert all(part in found["message"] for part in OLD_DRIVER), found["message"]


def test_a_device_that_is_too_small_for_the_weights_is_a_memory_error(gpu: StubGpu) -> None:
    found = run_step(gpu, OPEN, memory=4 << 20)
    assert found["error"] == "DeviceMemoryError", found


@pytest.mark.parametrize("sm", [75, 80, 90])
def test_a_device_that_works_passes_the_check_and_opens_the_model(gpu: StubGpu, sm: int) -> None:
    assert run_step(gpu, {"step": "check"}, sm=sm)["error"] == ""
    found = run_step(gpu, OPEN, sm=sm)
    assert (found["error"], found["gpu_answers"]) == ("", True)
    assert found["memory_used"] >= 0
