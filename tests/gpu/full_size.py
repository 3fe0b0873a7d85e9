"""The graphs of the official model at full size, without its weights: a few megabytes a graph, and no checkpoint.

Operators, shapes and types are those of a real export. Large weights lie in one sparse file of zeros.
"""

from __future__ import annotations

import ast
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from torch.overrides import TorchFunctionMode

from export.checkpoint import build_official
from export.graphs.graphs import graphs_of
from export.graphs.onnx_writer import strip, to_ir
from export.sam3_runtime import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from job.model.artifact import Precision

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
ZEROS = "zeros.bin"
_LARGE = 1 << 16  # elements
_FILLS = ("normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "zero_", "fill_")


def write_weightless(folder: Path, precision: Precision) -> None:
    """Write the graphs that run for every image into a folder."""
    model, largest = official_model(), 0
    for graph in graphs_of(model, precision):
        if graph.name == "text_encoder":  # runs once a prompt and run, not once an image
            continue
        exported = to_ir(graph)
        _name_by_module(exported)
        strip(exported)
        largest = max(largest, _drop_weights(exported, folder))
        ir.save(exported, folder / f"{graph.name}.onnx")
    with (folder / ZEROS).open("wb") as stream:
        stream.truncate(largest)


def official_model() -> Any:
    """A `Sam3Image` whose large weights are not initialized, so that they take no memory until they are converted."""
    torch.manual_seed(0)
    with quiet(), _large_tensors_stay_empty():
        model = build_official().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.numel() < _LARGE:
            torch.nn.init.normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):  # of negative scales the graphs have an operator more
            torch.nn.init.ones_(module.weight)
    return model


def _name_by_module(model: ir.Model) -> None:
    """Begin the name of every node with the part of the model that it comes from: `trunk/node_matmul_3`."""
    for node in model.graph:
        _, *scopes = ast.literal_eval(node.metadata_props.get(_SCOPES_KEY, "['']"))
        node.name = f"{scopes[0].partition('.')[0] if len(scopes) > 1 else 'other'}/{node.name}"


def _drop_weights(model: ir.Model, folder: Path) -> int:
    """Point every large weight at the file of zeros; returns the bytes of the largest."""
    largest = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.size >= _LARGE:
            largest = max(largest, tensor.nbytes)
            value.const_value = ir.ExternalTensor(
                ZEROS, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name, base_dir=folder
            )
    return largest


class _EmptyLargeTensors(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Skip what fills a large tensor: memory that is not written takes no space."""
        if getattr(func, "__module__", "") == "torch.nn.init" or getattr(func, "__name__", "") in _FILLS:
            filled = args[0] if args else (kwargs or {})["tensor"]
            if filled.numel() >= _LARGE:
                return filled
        return func(*args, **(kwargs or {}))


@contextmanager
def _large_tensors_stay_empty() -> Iterator[None]:
    with _EmptyLargeTensors(), torch.no_grad():
        yield


def full_size_graphs(precision: Precision) -> Path:
    """The folder of the weightless graphs, exported once for each version of the code."""
    from tests.export.cached_exports import cached_export

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        write_weightless(folder, precision)

    return cached_export(f"weightless-{precision}", make)
