"""What a node can never do, what may pass, and what is too large, by driver, GPU and the runtime's own words."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort
import pytest

from job.errors import ConfigurationError, DeviceError, DeviceMemoryError, UnusableDeviceError
from job.model import loader, onnx_gpu
from job.model.gpu import (
    GpuNeeds,
    device_failure,
    unusable_device_is_configuration,
    unusable_devices,
    why_unusable,
)
from job.system.cuda_driver import CudaDriver, Gpu

NEEDS = GpuNeeds("onnxruntime-gpu 1.32.0", (13, 0), (7, 5))
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0))
V100 = Gpu("Tesla V100-SXM2-16GB", (7, 0))
CURRENT = CudaDriver("580.65.06", (13, 0), (H100,))
OLD_DRIVER = CudaDriver("535.129.03", (12, 2), (H100,))
VOLTA = CudaDriver("580.65.06", (13, 0), (V100,))
NO_KERNEL = "CUDA failure 209: no kernel image is available for execution on the device"
TOO_OLD = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"


@pytest.mark.parametrize(
    ("driver", "words", "expected"),
    [
        pytest.param(OLD_DRIVER, TOO_OLD, ("535.129.03", "12.2", "driver 580 or newer", TOO_OLD), id="old driver"),
        pytest.param(OLD_DRIVER, "", ("535.129.03", "built for CUDA 13.0"), id="old driver, no words"),
        pytest.param(VOLTA, NO_KERNEL, ("Tesla V100", "7.0", "compute capability 7.5 or newer", NO_KERNEL), id="Volta"),
        pytest.param(CURRENT, NO_KERNEL, ("NVIDIA H100", "9.0", NO_KERNEL), id="no kernels by the runtime's words"),
    ],
)
def test_what_a_node_can_never_do_is_explained(driver: CudaDriver, words: str, expected: tuple[str, ...]) -> None:
    reason = why_unusable(NEEDS, driver, words)
    assert reason is not None
    assert all(part in reason for part in (*expected, "onnxruntime-gpu 1.32.0", "--device cpu"))


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        pytest.param(CURRENT, "CUDA failure 100: no CUDA-capable device is detected", id="a card that may come back"),
        pytest.param(CURRENT, "CUDA failure 2: out of memory", id="memory"),
        pytest.param(CudaDriver("580.65.06", (13, 0), ()), "unknown error", id="no GPU answers"),
        pytest.param(CudaDriver("", (0, 0), ()), "unknown error", id="the driver does not answer"),
        pytest.param(CudaDriver("590.1", (14, 0), (H100,)), "unknown error", id="newer driver"),
        pytest.param(None, NO_KERNEL, id="no driver"),
    ],
)
def test_what_may_pass_stays_a_device_error(driver: CudaDriver | None, words: str) -> None:
    assert why_unusable(NEEDS, driver, words) is None
    with pytest.raises(DeviceError) as raised, unusable_devices(NEEDS, lambda: driver):
        raise DeviceError(words)
    assert type(raised.value) is DeviceError


def test_a_runtime_of_unknown_cuda_version_is_judged_by_its_words() -> None:
    unknown = GpuNeeds("onnxruntime", None, (7, 5))
    assert why_unusable(unknown, OLD_DRIVER, "unknown error") is None
    assert TOO_OLD in str(why_unusable(unknown, OLD_DRIVER, TOO_OLD))


def test_an_unusable_device_is_a_configuration_error_unless_another_node_may_try() -> None:
    with pytest.raises(ConfigurationError, match="too old"), unusable_device_is_configuration(is_indexed=False):
        raise UnusableDeviceError("too old")
    with pytest.raises(UnusableDeviceError), unusable_device_is_configuration(is_indexed=True):
        raise UnusableDeviceError("too old")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("CUDA out of memory. Tried to allocate 1.50 GiB", DeviceMemoryError),
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9", DeviceMemoryError),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", DeviceMemoryError),
        ("CUDA failure 700: an illegal memory access was encountered", DeviceError),
    ],
)
def test_running_out_of_memory_has_an_error_of_its_own(words: str, kind: type[DeviceError]) -> None:
    assert type(device_failure("cuda", "ONNX Runtime", RuntimeError(words))) is kind


def test_the_check_before_a_model_is_fetched_quotes_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise DeviceError(TOO_OLD)

    monkeypatch.setattr(onnx_gpu, "gpu_needs", lambda: NEEDS)
    monkeypatch.setattr(onnx_gpu, "try_gpu", fail)
    for driver, is_usable in ((CURRENT, True), (None, True), (OLD_DRIVER, False), (VOLTA, False)):
        monkeypatch.setattr(loader, "cuda_driver", lambda driver=driver: driver)
        loader.check_gpu("cpu", "onnx")
        if is_usable:
            loader.check_gpu("cuda", "onnx")
            continue
        with pytest.raises(UnusableDeviceError, match=TOO_OLD):
            loader.check_gpu("cuda", "onnx")


def test_what_this_installation_needs() -> None:
    needs = onnx_gpu.gpu_needs()
    assert ort.__version__ in needs.library
    assert needs.capability == (7, 5)


def test_a_build_without_cuda_cannot_use_a_gpu() -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this installation has CUDA")
    with pytest.warns(UserWarning, match="not in available"), pytest.raises(DeviceError, match="could not load"):
        onnx_gpu.try_gpu()


def test_the_sum_is_the_model_that_its_comment_says() -> None:
    onnx: Any = pytest.importorskip("onnx", reason="models are built with the exporter's onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    x, y = (make.make_tensor_value_info(name, kind, [1]) for name in "xy")
    graph = make.make_graph([make.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    expected = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10)
    assert onnx.load_from_string(onnx_gpu.SUM_MODEL) == expected
