"""Writes ONNX files: export, strip data about this machine, store weights as float16 where that is lossless."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from onnx_ir import convenience

from export.graphs.graphs import EXAMPLE_SIZES
from export.graphs.quantize import QUANTIZED_SCOPES, quantize
from export.sam3_runtime import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from export.graphs.graphs import Graph
    from job.model.artifact import Precision

# The first opset with an `Attention` operator, which ONNX Runtime runs fused.
OPSET = 23
# The last opset whose `InstanceNormalization` has a CUDA kernel.
MASK_HEAD_OPSET = 21
SMALLEST_HALVED = 64
# Graphs of a bf16 artifact that compute in bfloat16 throughout; the grounding does so in part.
BFLOAT16_GRAPHS = frozenset({"image_encoder"})
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
LARGEST_SINGLE_FILE = 512 * 1024 * 1024


def write_onnx(graph: Graph, folder: Path, precision: Precision) -> str:
    """Export a graph.

    Weights of large graphs are written to a second file with `.data` appended to its name.

    Returns:
        Name of the graph's file.
    """
    model = to_ir(graph)
    weights = list(model.graph.initializers.values())
    if precision == "int8" and graph.name in QUANTIZED_SCOPES:
        quantize(model, QUANTIZED_SCOPES[graph.name])
    if precision == "bf16" and graph.name in BFLOAT16_GRAPHS:
        round_weights(model)
    strip(model)
    halve_lossless(model)
    name = f"{graph.name}.onnx"
    save(model, folder, name)
    # Caches of the exporter keep the graph alive.
    for value in (*weights, *model.graph.initializers.values()):
        value.const_value = None
    return name


def save(model: ir.Model, folder: Path, name: str) -> None:
    """Write a graph; large weights go to a second file."""
    size = sum(x.const_value.nbytes for x in model.graph.initializers.values() if x.const_value is not None)
    ir.save(model, folder / name, external_data=f"{name}.data" if size > LARGEST_SINGLE_FILE else None)


def to_ir(graph: Graph) -> ir.Model:
    """Export with the dynamic dimensions and names of the graph's description."""
    dimensions = {name: torch.export.Dim(name, min=1, max=4096) for name in EXAMPLE_SIZES}
    shapes = tuple({axis: dimensions[name] for axis, name in x.items()} for x in graph.dynamic_dimensions())
    with quiet(), _silent_logger("onnxscript"), torch.no_grad():
        program = torch.onnx.export(
            graph.module,
            graph.examples(),
            input_names=[x.name for x in graph.inputs],
            output_names=[x.name for x in graph.outputs],
            dynamic_shapes=shapes,
            opset_version=MASK_HEAD_OPSET if graph.name == "mask_head" else OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model: ir.Model = program.model
    drop_unused_outputs(model)
    for value, spec in zip(model.graph.outputs, graph.outputs, strict=True):
        value.shape = ir.Shape(spec.shape)
    return model


def drop_unused_outputs(model: ir.Model) -> None:
    """Leave out the unused outputs of fused operators."""
    for node in model.graph.all_nodes():
        if node.domain and len(node.outputs) > 1:
            for value in node.outputs:
                if not value.uses() and not value.is_graph_output():
                    value.name = ""


def strip(model: ir.Model) -> None:
    """Remove stack traces, module names and doc strings; they hold paths of this machine."""
    _clear(model, model.graph, *model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values())
    for node in model.graph.all_nodes():
        _clear(node, *node.outputs)


def halve_lossless(model: ir.Model) -> None:
    """Store weights as float16 where that is lossless; ONNX Runtime casts them back when it loads."""
    _store_as(model, ir.DataType.FLOAT16, "half", lambda value: _as_half(value.const_value))


def round_weights(model: ir.Model) -> None:
    """Store the weights of products as bfloat16, rounded to nearest even as OpenVINO rounds them.

    What else a weight is used for keeps float32.
    """
    _store_as(model, ir.DataType.BFLOAT16, "bfloat16", _as_bfloat16)


def _store_as(
    model: ir.Model, kind: ir.DataType, suffix: str, narrow: Callable[[ir.Value], ir.TensorProtocol | None]
) -> None:
    """Store each initializer that `narrow` gives another tensor for as that tensor, and cast it back to float32."""
    casts = []
    for name, value in list(model.graph.initializers.items()):
        tensor = narrow(value)
        if tensor is None:
            continue
        stored = ir.Value(name=f"{name}.{suffix}", type=ir.TensorType(kind), shape=value.shape, const_value=tensor)
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        restored = cast.outputs[0]
        restored.name, restored.shape, restored.type = f"{name}.cast", value.shape, value.type
        convenience.replace_all_uses_with(value, restored)
        model.graph.initializers.pop(name)
        model.graph.register_initializer(stored)
        casts.append(cast)
    if casts:
        model.graph.insert_before(model.graph[0], casts)


def _as_half(tensor: Any) -> ir.TensorProtocol | None:
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < SMALLEST_HALVED:
        return None
    full = tensor.numpy()
    with np.errstate(over="ignore"):
        half = full.astype(np.float16)
    return ir.Tensor(half) if np.array_equal(half.astype(np.float32), full) else None


def _as_bfloat16(value: ir.Value) -> ir.TensorProtocol | None:
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < SMALLEST_HALVED:
        return None
    if any(use.node.op_type not in PRODUCTS or use.idx != 1 for use in value.uses()):
        return None
    return ir.Tensor(tensor.numpy().astype(ml_dtypes.bfloat16))


def _clear(*things: Any) -> None:
    for thing in things:
        thing.metadata_props.clear()
        thing.doc_string = None


@contextmanager
def _silent_logger(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
