"""Eight-bit weights and activations for CPUs, with one scale for each token.

A matrix product `x @ W` with constant `W` becomes: find the largest magnitude of every row of `x`, round the row
to 8 bits with it, multiply integers, undo both scales. Rows are independent, so neither the other images of a batch
nor the other prompts change an image's result, and integer sums do not depend on their order. Measured at
5184 x 1024 x 3072 on one core with AVX512-VNNI: 2.8 times as fast as float32; blocks of weights with 8 bits
(`MatMulNBits`) gain 1.4 times, and one scale for the whole tensor, which gains most, depends on the other images.
Weights are int8; `job.model.integer_kernels` keeps their sums exact on every processor: uint8 weights would be exact
without it, and ten times slower where there is AMX (42 ms instead of 4.3 ms at 1296 x 1024 x 3072, one core).

Only layers with many tokens are quantized: those of the image encoder and of the fusion with the prompt. Layers that
compute scores, boxes and masks stay float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Module paths below which matrix products are quantized, by graph.
QUANTIZED_SCOPES = {"image_encoder": "trunk.blocks", "grounding": "fusion.layers"}
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_CONTRIB = "com.microsoft"
_LEVELS = 127
_MIDDLE = 128
_SMALLEST = 1e-12


def quantize(model: ir.Model, scope: str) -> int:
    """Quantize the matrix products with constant weights below a module path.

    Args:
        model: Changed in place; its nodes still carry the exporter's metadata.
        scope: Module path, as in `QUANTIZED_SCOPES`.

    Returns:
        How many.
    """
    rewriter = _Rewriter(model)
    products = [node for node in model.graph if _is_product(node) and scope in node.metadata_props.get(_SCOPES_KEY, "")]
    for node in products:
        rewriter.replace(node)
    return len(products)


def _is_product(node: ir.Node) -> bool:
    return node.op_type == "MatMul" and node.inputs[1] is not None and node.inputs[1].is_initializer()


class _Rewriter:
    """Replaces products in a graph and quantizes each input once."""

    def __init__(self, model: ir.Model) -> None:
        model.opset_imports[_CONTRIB] = 1
        self._graph = model.graph
        self._quantized: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._last = self._constant("last_axis", np.array([-1], np.int64))
        self._flat = self._constant("flat", np.array([-1], np.int64))
        self._step = self._constant("step", np.array(1 / _LEVELS, np.float32))
        self._smallest = self._constant("smallest", np.array(_SMALLEST, np.float32))
        self._middle = self._constant("middle", np.array(_MIDDLE, np.uint8))
        self._one = self._constant("one", np.array(1, np.float32))

    def replace(self, node: ir.Node) -> None:
        x, weight = node.inputs
        assert x is not None
        assert weight is not None
        assert weight.const_value is not None
        levels, scales = quantized_weight(weight.const_value.numpy())
        integers, row_scales = self._quantized_rows(node, x, len(levels))
        stored = self._constant(f"{weight.name}.levels", levels)
        columns = self._constant(f"{weight.name}.scales", scales)
        product = self._add(
            node, "MatMulIntegerToFloat", [integers, stored, self._one, columns, self._middle], domain=_CONTRIB
        )
        scaled = self._add(node, "Mul", [product, row_scales])
        leading = self._add(node, "Shape", [x], end=-1)
        width = self._constant(f"{weight.name}.width", np.array([levels.shape[1]], np.int64))
        shape = self._add(node, "Concat", [leading, width], axis=0)
        out = self._add(node, "Reshape", [scaled, shape])
        convenience.replace_all_uses_with(node.outputs[0], out)
        self._graph.remove(node, safe=True)
        if not weight.uses():
            self._graph.initializers.pop(str(weight.name))

    def _quantized_rows(self, node: ir.Node, x: ir.Value, width: int) -> tuple[ir.Value, ir.Value]:
        """Rows of `x` as uint8 (rows, width) around 128, and their scales (rows, 1)."""
        if x not in self._quantized:
            shape = self._constant(f"{node.name}.rows", np.array([-1, width], np.int64))
            rows = self._add(node, "Reshape", [x, shape])
            highest = self._add(node, "ReduceMax", [rows, self._last], keepdims=1)
            lowest = self._add(node, "ReduceMin", [rows, self._last], keepdims=1)
            largest = self._add(node, "Max", [highest, self._add(node, "Neg", [lowest]), self._smallest])
            scales = self._add(node, "Mul", [largest, self._step])
            flat = self._add(node, "Reshape", [scales, self._flat])
            middles = self._add(node, "Expand", [self._middle, self._add(node, "Shape", [flat])])
            self._quantized[x] = self._add(node, "QuantizeLinear", [rows, flat, middles], axis=0), scales
        return self._quantized[x]

    def _add(
        self, before: ir.Node, operator: str, inputs: list[ir.Value], domain: str = "", **attributes: Any
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes or None, domain=domain)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        tensor = ir.Tensor(array, name=f"quantised.{name}")
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value


def quantized_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights (inputs, outputs) to integers and a scale for every output."""
    scales = np.maximum(np.abs(weight).max(axis=0), _SMALLEST) / np.float32(_LEVELS)
    return np.rint(weight / scales).astype(np.int8), scales.astype(np.float32)
