"""Eight-bit weights and activations with scales from calibration pictures, as OpenVINO's int8 kernels take them.

A site `x` and its products `x @ W` become, in operators of the ONNX standard:

    x * smoothing -> QuantizeLinear -> DequantizeLinear -> MatMul with W / smoothing as int8 and a scale for each column

One scale and zero point hold for the whole of `x`, so they are constants of the graph: neither other images nor other
prompts change a result. `smoothing` moves the outliers of single channels into the weights (SmoothQuant,
arXiv:2211.10438), and the levels may cover a part of the observed range, so that they are finer and the few values
outside of it saturate. The strength of the smoothing and that part are chosen for each site by the error of its
products on sampled rows, which include those with the largest values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from export.graphs.quantize import quantized_weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from export.calibrated.observation import Observation, Site

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the smoothing: 0 leaves outliers in the activations, 1 moves them to the weights entirely."""
COVERED = (1.0, 0.9, 0.8, 0.7)
"""Parts of the observed range that the levels cover."""
_LEVELS = 255
_SMALLEST = 1e-6


@dataclass(frozen=True)
class SitePlan:
    """How a site is rounded.

    Attributes:
        smoothing: float32 (C,), factors of the channels.
        scale: Difference of neighbouring levels.
        zero: The level, 0 to 255, that stands for 0.
        error: Relative error of its products on the sampled rows.
        weights: Number of weights of its products, which their time is proportional to.
    """

    smoothing: NDArray[np.float32]
    scale: np.float32
    zero: np.uint8
    error: float
    weights: int

    @property
    def error_removed(self) -> float:
        """Squared error that is removed for each weight if the site stays in higher precision."""
        return self.error**2 / self.weights


def plan_site(observation: Observation, weights: Sequence[NDArray[np.float32]]) -> SitePlan:
    """Choose the strength of the smoothing, and the part of the range, with the smallest error.

    Args:
        observation: Of the site.
        weights: (C, outputs) of each of its products.
    """
    weight = np.concatenate(weights, axis=1)
    exact = observation.rows @ weight
    plans = (plan for strength in STRENGTHS for plan in _plans(observation, weight, exact, strength))
    return min(plans, key=lambda plan: plan.error)


def _plans(
    seen: Observation, weight: NDArray[np.float32], exact: NDArray[np.float32], strength: float
) -> Iterator[SitePlan]:
    """One plan for each part of the range."""
    largest = np.maximum(np.abs(seen.lowest), np.abs(seen.highest))
    columns = np.abs(weight).max(axis=1)
    factors = np.maximum(columns, _SMALLEST) ** (1 - strength) / np.maximum(largest, _SMALLEST) ** strength
    smoothing = factors.astype(np.float32) if strength else np.ones_like(largest)
    low, high = float((seen.lowest * smoothing).min()), float((seen.highest * smoothing).max())
    integers, scales = quantized_weight(weight / smoothing[:, np.newaxis])
    smoothed, rounded = seen.rows * smoothing, integers.astype(np.float32)
    for part in COVERED:
        scale, zero = _levels_of(min(0.0, low) * part, max(0.0, high) * part)
        levels = np.clip(np.rint(smoothed / scale) + np.float32(zero), 0, _LEVELS) - np.float32(zero)
        got = (levels @ rounded) * (scale * scales)
        error = float(np.linalg.norm(got - exact) / max(float(np.linalg.norm(exact)), _SMALLEST))
        yield SitePlan(smoothing, scale, zero, error, weight.size)


def _levels_of(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Difference of the levels of a range, and the level of 0."""
    scale = np.float32(max(high - low, _SMALLEST) / _LEVELS)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, _LEVELS))


def weights_of(model: ir.Model, site: Site) -> list[NDArray[np.float32]]:
    """The weights (C, outputs) of the products of a site."""
    return [_stored(node.inputs[1]).astype(np.float32) for node in _products(model, site)]


def quantize_sites(model: ir.Model, plans: Mapping[Site, SitePlan]) -> None:
    """Round sites and weights; the model is changed."""
    for site, plan in plans.items():
        _quantize_site(model.graph, _products(model, site), site.name, plan)


def _quantize_site(graph: ir.Graph, products: Sequence[ir.Node], name: str, plan: SitePlan) -> None:
    x, first = products[0].inputs[0], products[0]
    assert x is not None
    scale, zero = _constant(graph, f"{name}.scale", plan.scale), _constant(graph, f"{name}.zero", plan.zero)
    smoothing = _constant(graph, f"{name}.smoothing", plan.smoothing)
    smooth = _add(graph, first, "Mul", [x, smoothing])
    levels = _add(graph, first, "QuantizeLinear", [smooth, scale, zero])
    rounded = _add(graph, first, "DequantizeLinear", [levels, scale, zero])
    for i, node in enumerate(products):
        weight = node.inputs[1]
        assert weight is not None
        integers, scales = quantized_weight(_stored(weight).astype(np.float32) / plan.smoothing[:, np.newaxis])
        stored = [_constant(graph, f"{name}.{i}.{part}", x) for part, x in (("levels", integers), ("scales", scales))]
        node.replace_input_with(0, rounded)
        node.replace_input_with(1, _add(graph, node, "DequantizeLinear", stored, axis=1))
        _drop_unused(graph, weight)


def _products(model: ir.Model, site: Site) -> list[ir.Node]:
    nodes = {node.name: node for node in model.graph}
    return [nodes[name] for name in site.products]


def _stored(value: ir.Value | None) -> NDArray[Any]:
    """The constant that a value is, or is cast from."""
    assert value is not None
    node = value.producer()
    if node is not None:
        return _stored(node.inputs[0])
    assert value.const_value is not None
    array: NDArray[Any] = value.const_value.numpy()
    return array


def _drop_unused(graph: ir.Graph, value: ir.Value) -> None:
    """Remove a constant that nothing reads any more, with its cast."""
    if value.uses():
        return
    node = value.producer()
    if node is None:
        graph.initializers.pop(str(value.name))
        return
    source = node.inputs[0]
    graph.remove(node, safe=True)
    assert source is not None
    _drop_unused(graph, source)


def _add(graph: ir.Graph, before: ir.Node, operator: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
    node = ir.node(operator, inputs, attributes or None)
    graph.insert_before(before, node)
    return node.outputs[0]


def _constant(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    tensor = ir.Tensor(np.asarray(array), name=f"int8.{name}")
    value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value
