"""Ranges of the activations that an int8 graph rounds, observed on calibration pictures.

A site is one tensor of the image encoder and the matrix products that read it: of each block the input of queries, keys
and values, the input of the output's projection, and the inputs of both layers of the feed-forward network. Products of
other graphs have few rows, or rows that depend on the prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

SAMPLED_ROWS = 256
"""Rows of each tensor that are kept of the first picture, to compare products on."""
_PARTS = ("attention.input", "attention.output", "feed_forward.widen", "feed_forward.narrow")


@dataclass(frozen=True)
class Site:
    """A tensor to round to 8 bits.

    Attributes:
        name: As in `blocks.6.attention.input`.
        products: Names of the nodes that multiply it with constant weights, in order.
    """

    name: str
    products: tuple[str, ...]


@dataclass(frozen=True)
class Observation:
    """What a tensor with C channels held.

    Attributes:
        lowest: float32 (C,), smallest value of each channel in all pictures.
        highest: float32 (C,), largest value.
        rows: float32 (at most `SAMPLED_ROWS`, C), rows of the first picture.
    """

    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    rows: NDArray[np.float32]


def sites_of(model: ir.Model) -> tuple[Site, ...]:
    """List the sites of an image encoder, in the order of its graph; see `export.graphs.trunk`."""
    readers: dict[str, list[str]] = {}
    for node in model.graph:
        if node.op_type == "MatMul" and is_constant(node.inputs[1]):
            assert node.inputs[0] is not None
            readers.setdefault(str(node.inputs[0].name), []).append(str(node.name))
    assert len(readers) % len(_PARTS) == 0, "a block has other products than expected"
    return tuple(
        Site(name=f"blocks.{i // len(_PARTS)}.{_PARTS[i % len(_PARTS)]}", products=tuple(products))
        for i, products in enumerate(readers.values())
    )


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is stored in the file, or cast from one that is."""
    if value is None:
        return False
    node = value.producer()
    return value.is_initializer() or (node is not None and node.op_type == "Cast" and is_constant(node.inputs[0]))


def observe(
    path: Path, sites: Sequence[Site], pixels: Iterable[NDArray[np.uint8]], threads: int | None
) -> tuple[dict[str, Observation], int]:
    """Run a float32 image encoder on pictures with OpenVINO, and observe its sites.

    Args:
        path: File of the graph.
        sites: See `sites_of`.
        pixels: uint8 (S, S, 3) of each picture; at least one.
        threads: Threads of the processor, None for all.

    Returns:
        By name of the site, and the number of pictures.
    """
    encoder, observed, images = _observer(path, sites, threads), dict[str, Observation](), 0
    for images, image in enumerate(pixels, 1):  # noqa: B007
        outputs = [np.array(value) for value in encoder([image[np.newaxis]]).values()]
        for i, site in enumerate(sites):
            lowest, highest, rows = outputs[3 * i : 3 * i + 3]
            before = observed.get(site.name)
            observed[site.name] = (
                Observation(lowest, highest, rows)
                if before is None
                else Observation(np.minimum(before.lowest, lowest), np.maximum(before.highest, highest), before.rows)
            )
    return observed, images


def _observer(path: Path, sites: Sequence[Site], threads: int | None) -> Any:
    """The graph with three outputs for each site in the place of its own: lowest, highest, rows."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    image = model.input(0).get_partial_shape()
    model.reshape({0: ov.PartialShape([1, *(image[i].get_length() for i in range(1, 4))])})
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    results = [x for site in sites for x in _observed(nodes[site.products[0]].input_value(0))]
    options = {"INFERENCE_PRECISION_HINT": ov.Type.f32, "EXECUTION_MODE_HINT": "ACCURACY", "NUM_STREAMS": 1}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    return core.compile_model(ov.Model(results, model.get_parameters()), "CPU", options)


def _observed(value: Any) -> tuple[Any, Any, Any]:
    from openvino import opset13 as ops

    shape = value.get_shape()
    table = ops.reshape(value, np.array([-1, shape[-1]]), special_zero=False)
    step = max(1, int(np.prod(shape[:-1])) // SAMPLED_ROWS)
    first, axis = np.array([0]), np.array([0])
    rows = ops.slice(table, first, np.array([step * SAMPLED_ROWS]), np.array([step]), axis)
    return tuple(ops.result(x) for x in (ops.reduce_min(table, axis), ops.reduce_max(table, axis), rows))
