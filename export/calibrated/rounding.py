"""Eight-bit weights and activations with scales from calibration pictures, as OpenVINO's int8 kernels take them.

A site `x` and its products `x @ W` become, in operators of the ONNX standard:

    x * smoothing -> QuantizeLinear -> DequantizeLinear -> MatMul with W / smoothing as int8 and a scale for each column

One scale and zero point hold for the whole of `x`, so they are constants of the graph: neither other images nor other
prompts change a result. `smoothing` moves the outliers of single channels into the weights (SmoothQuant,
arXiv:2211.10438); its strength is chosen for each site by the error of its products on sampled rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from export.graphs.quantize import quantized_weight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from export.calibrated.observation import Observation, Site

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the smoothing: 0 leaves outliers in the activations, 1 moves them to the weights entirely."""
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
        weight_count: Number of weights of its products, which their time is proportional to.
    """

    smoothing: NDArray[np.float32]
    scale: np.float32
    zero: np.uint8
    error: float
    weight_count: int

    @property
    def error_per_weight(self) -> float:
        """Squared error that is removed for each weight if the site stays in higher precision."""
        return self.error**2 / self.weight_count


def plan_site(observation: Observation, weights: Sequence[NDArray[np.float32]]) -> SitePlan:
    """Choose the strength of the smoothing with the smallest error.

    Args:
        observation: Of the site.
        weights: (C, outputs) of each of its products.
    """
    weight = np.concatenate(weights, axis=1)
    exact = observation.rows @ weight
    plans = (_plan(observation, weight, exact, strength) for strength in STRENGTHS)
    return min(plans, key=lambda plan: plan.error)


def _plan(seen: Observation, weight: NDArray[np.float32], exact: NDArray[np.float32], strength: float) -> SitePlan:
    largest = np.maximum(np.abs(seen.lowest), np.abs(seen.highest))
    columns = np.abs(weight).max(axis=1)
    factors = np.maximum(columns, _SMALLEST) ** (1 - strength) / np.maximum(largest, _SMALLEST) ** strength
    smoothing = factors.astype(np.float32) if strength else np.ones_like(largest)
    low = min(0.0, float((seen.lowest * smoothing).min()))
    high = max(0.0, float((seen.highest * smoothing).max()))
    scale = np.float32(max(high - low, _SMALLEST) / _LEVELS)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, _LEVELS))
    levels = np.clip(np.rint(seen.rows * smoothing / scale) + np.float32(zero), 0, _LEVELS) - np.float32(zero)
    integers, scales = quantized_weight(weight / smoothing[:, np.newaxis])
    got = (levels @ integers.astype(np.float32)) * (scale * scales)
    error = float(np.linalg.norm(got - exact) / max(float(np.linalg.norm(exact)), _SMALLEST))
    return SitePlan(smoothing, scale, zero, error, weight.size)


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
