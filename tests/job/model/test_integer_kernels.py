"""Products of 8-bit integers are exact: on this processor, and on one with AVX2 alone (emulated by QEMU)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from job.errors import DeviceError
from job.model import integer_kernels
from job.model.integer_kernels import PRECISION_OPTION, PROBE_MODEL, is_exact, probe, require_exact_integers

onnx = pytest.importorskip("onnx", reason="models are built with the exporter's onnx")

LAYERS = {"qkv": (1024, 3072), "attention out": (1024, 1024), "mlp in": (1024, 4736), "mlp out": (4736, 1024)}
"""(inputs, outputs) of the quantised layers of SAM 3's image encoder; the fusion's are smaller."""


def product_model(weights: NDArray[np.int8]) -> bytes:
    """`MatMulIntegerToFloat` as `export.graphs.quantize` writes it: rows of uint8 around 128 times int8 weights."""
    make, outputs = onnx.helper, weights.shape[1]
    stored = {"w": weights, "sx": np.float32(1), "sw": np.ones(outputs, np.float32), "z": np.uint8(128)}
    node = make.make_node("MatMulIntegerToFloat", ["x", "w", "sx", "sw", "z"], ["y"], domain="com.microsoft")
    graph = make.make_graph(
        [node],
        "g",
        [make.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["rows", len(weights)])],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", outputs])],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    opsets = [make.make_opsetid("", 21), make.make_opsetid("com.microsoft", 1)]
    model: bytes = make.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


def multiply(rows: NDArray[np.uint8], weights: NDArray[np.int8], options: Any) -> NDArray[np.float32]:
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(product_model(weights), options, providers=["CPUExecutionProvider"])
    answer: NDArray[np.float32] = session.run(None, {"x": rows})[0]
    return answer


def exact(rows: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.float32]:
    """Exact integers, rounded once to float32 as the operator does."""
    return ((rows.astype(np.int64) - 128) @ weights.astype(np.int64)).astype(np.float32)


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("shape", LAYERS.values(), ids=LAYERS)
def test_products_of_the_real_layers_are_exact(shape: tuple[int, int], extreme: bool) -> None:
    random = np.random.default_rng(1)
    rows = random.integers(0, 256, (17, shape[0]), np.uint8)
    weights = random.integers(-127, 128, shape, np.int8)
    if extreme:
        rows, weights = np.where(rows < 128, 0, 255).astype(np.uint8), np.where(weights < 0, -127, 127).astype(np.int8)
    options = ort.SessionOptions()
    require_exact_integers(options)
    np.testing.assert_array_equal(multiply(rows, weights, options), exact(rows, weights))


def test_the_mode_for_processors_without_vnni_gives_the_same_bits_here() -> None:
    random = np.random.default_rng(2)
    rows, weights = random.integers(0, 256, (33, 1024), np.uint8), random.integers(-127, 128, (1024, 96), np.int8)
    options = ort.SessionOptions()
    options.add_session_config_entry(PRECISION_OPTION, "1")
    np.testing.assert_array_equal(multiply(rows, weights, options), exact(rows, weights))


def test_the_probe_equals_the_documented_model() -> None:
    make = onnx.helper
    initializers = [
        onnx.numpy_helper.from_array(np.full((4, 16), 127, np.int8), "w"),
        onnx.numpy_helper.from_array(np.array(0, np.uint8), "z"),
    ]
    graph = make.make_graph(
        [make.make_node("MatMulInteger", ["x", "w", "z"], ["y"])],
        "g",
        [make.make_tensor_value_info("x", onnx.TensorProto.UINT8, [16, 4])],
        [make.make_tensor_value_info("y", onnx.TensorProto.INT32, [16, 16])],
        initializers,
    )
    assert make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10) == onnx.load_from_string(
        PROBE_MODEL
    )


SATURATED = np.full((16, 16), 2 * 32767, np.int32)
"""What the probe answered on AVX2 alone: each pair of products stops at the largest 16-bit integer."""


def test_exact_kernels_replace_saturating_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    exact_sums = np.full((16, 16), 4 * 255 * 127, np.int32)
    monkeypatch.setattr(integer_kernels, "probe", lambda mode: SATURATED if mode == "0" else exact_sums)
    integer_kernels._exact_mode.cache_clear()
    options = ort.SessionOptions()
    try:
        require_exact_integers(options)
    finally:
        integer_kernels._exact_mode.cache_clear()
    assert options.get_session_config_entry(PRECISION_OPTION) == "1"


def test_a_processor_without_exact_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_kernels, "probe", lambda mode: SATURATED)
    integer_kernels._exact_mode.cache_clear()
    try:
        with pytest.raises(DeviceError, match="inexactly on this processor: annotate with an fp32 artifact"):
            require_exact_integers(ort.SessionOptions())
    finally:
        integer_kernels._exact_mode.cache_clear()


EMULATED = f"""
import numpy as np, onnxruntime as ort
from job.model.integer_kernels import PRECISION_OPTION, probe, require_exact_integers
from tests.job.model.test_integer_kernels import exact, multiply

random = np.random.default_rng(3)
rows, weights = random.integers(0, 256, (9, 512), np.uint8), random.integers(-127, 128, (512, 48), np.int8)
options = ort.SessionOptions()
require_exact_integers(options)
assert probe("0").max() == {SATURATED.max()}, probe("0")
assert options.get_session_config_entry(PRECISION_OPTION) == "1"
assert (multiply(rows, weights, ort.SessionOptions()) != exact(rows, weights)).any()
np.testing.assert_array_equal(multiply(rows, weights, options), exact(rows, weights))
print("exact")
"""


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="apt-get install qemu-user")
@pytest.mark.parametrize("processor", ["Haswell", "EPYC"])
def test_a_processor_with_avx2_alone_multiplies_exactly(processor: str) -> None:
    emulator = ["qemu-x86_64", "-cpu", processor]
    done = subprocess.run(
        [*emulator, sys.executable, "-c", EMULATED], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "exact\n"


def test_the_probe_detects_saturation() -> None:
    assert not is_exact(SATURATED)
    assert is_exact(probe("1"))
