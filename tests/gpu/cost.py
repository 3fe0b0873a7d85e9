"""Static cost of the graphs on a GPU: FLOP, memory traffic and kernel launches of every node, and a prediction.

`python -m tests.gpu.cost [MODEL_DIR]` prints them. Without MODEL_DIR it takes the graphs of the official model at full
size in fp16, which need no weights. ONNX Runtime's released GPU build optimises and runs the graphs on CUDA libraries
that compute nothing (`tests.gpu.stubs`), so kernels and launches are counted, not modelled. Traffic is what the kernels
must read and write if no cache helps between two of them: shapes and types of inputs and outputs.
"""

from __future__ import annotations

import bisect
import math
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.gpu.cards import LAUNCH_S, SHARE_OF_BANDWIDTH, SHARE_OF_PEAK, Card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.gpu.stubs import StubGpu

# Graphs that run for every image, in this order; the last one runs once a row of an image and a prompt.
GRAPHS = ("image_encoder", "grounding", "mask_head")
_BYTES = {"float": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint8": 1, "int8": 1, "bool": 1}
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "Conv", "ConvTranspose", "FusedConv", "Attention", "MultiHeadAttention")
# These read no more than they write.
_READ_AS_WRITTEN = ("Gather", "GatherND", "Slice", "Expand", "NonZero")
_HALF = ("float16", "bfloat16")

Tensor = tuple[str, list[int]]


@dataclass(frozen=True)
class Value:
    """A tensor that a node reads or writes: its name in the optimised graph, element type and shape."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes; 0 for an input that is left out."""
        return _BYTES[self.kind] * math.prod(self.shape) if self.kind else 0


@dataclass(frozen=True)
class NodeCost:
    """One executed node of one call.

    Attributes:
        operator: Type of the node in the optimised graph.
        stage: Module of the model that it comes from; empty where the graph does not tell.
        provider: Of ONNX Runtime.
        flop: Of products, 2 a multiply-add; 0 for all other nodes.
        traffic: Bytes read and written.
        kernels: Names of the kernels (copies and fills included) that it launched.
        inputs: Of the node, weights included.
        outputs: Of the node.
    """

    operator: str
    stage: str
    provider: str
    flop: float
    traffic: float
    kernels: tuple[str, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def half(self) -> bool:
        """Whether the first operand has 16 bits."""
        return bool(self.inputs) and self.inputs[0].kind in _HALF

    def seconds(self, card: Card) -> float:
        """Predicted time on a card: the longer of arithmetic and traffic, and the launches."""
        peak = card.half_flops if self.half else card.single_flops
        arithmetic, moving = self.flop / (SHARE_OF_PEAK * peak), self.traffic / (SHARE_OF_BANDWIDTH * card.bandwidth)
        return max(arithmetic, moving) + len(self.kernels) * LAUNCH_S


@dataclass(frozen=True)
class GraphCost:
    """One graph, as often as it runs for one batch.

    Attributes:
        name: Of the graph.
        calls: For one batch.
        nodes: In the order of execution.
        written: Nodes of the artifact's file before optimisation, by operator.
        arena: Peak bytes of device memory that ONNX Runtime took, weights included, cuDNN's workspace not.
    """

    name: str
    calls: int
    nodes: tuple[NodeCost, ...]
    written: dict[str, int]
    arena: int

    @property
    def launches(self) -> int:
        """Kernels, copies and fills, a batch."""
        return self.calls * sum(len(x.kernels) for x in self.nodes)

    @property
    def flop(self) -> float:
        """Of products, a batch."""
        return self.calls * sum(x.flop for x in self.nodes)

    @property
    def traffic(self) -> float:
        """Bytes, a batch."""
        return self.calls * sum(x.traffic for x in self.nodes)

    @property
    def product_traffic(self) -> float:
        """Bytes that products read and write, a batch."""
        return self.calls * sum(x.traffic for x in self.nodes if x.flop)

    def seconds(self, card: Card) -> float:
        """Predicted time, a batch."""
        return self.calls * sum(x.seconds(card) for x in self.nodes)


@dataclass(frozen=True)
class Sizes:
    """Of one batch.

    Attributes:
        batch: Images.
        prompts: An image.
        selected: Masks above the threshold.
        rows: Pairs of an image and a prompt with such a mask.
    """

    batch: int = 4
    prompts: int = 3
    selected: int = 28
    rows: int = 12


def cost_of(gpu: StubGpu, model: Path, sizes: Sizes, *, sm: int = 80) -> tuple[GraphCost, ...]:
    """Count what one batch takes of each graph in a model's folder."""
    present = [model / f"{name}.onnx" for name in GRAPHS if (model / f"{name}.onnx").exists()]
    with tempfile.TemporaryDirectory() as scratch:
        return tuple(_graph_cost(gpu, path, Path(scratch), sizes, sm) for path in present)


def calls_of(name: str, sizes: Sizes) -> int:
    """Calls of a graph for one batch."""
    return sizes.rows if name == GRAPHS[-1] else 1


def _graph_cost(gpu: StubGpu, path: Path, scratch: Path, sizes: Sizes, sm: int) -> GraphCost:
    import onnx

    calls = calls_of(path.stem, sizes)
    selected = math.ceil(sizes.selected / calls)
    dimensions = {"batch": sizes.batch, "prompts": sizes.prompts, "selected": selected}
    request = {"model": str(path.resolve()), "folder": str(scratch), "sizes": dimensions}
    found = gpu.run(request, sm=sm)
    written: dict[str, int] = {}
    for node in onnx.load(str(path), load_external_data=False).graph.node:
        written[node.op_type] = written.get(node.op_type, 0) + 1
    graph = onnx.load(found["optimised"], load_external_data=False).graph
    nodes = _Counter(graph, found).nodes()
    return GraphCost(path.stem, calls, nodes, written, found["peak_bytes"])


@dataclass
class _Counter:
    """Joins what the profile says of the executed nodes with the optimised graph.

    A node that the probe exchanged counts as one kernel.
    """

    graph: Any
    found: dict[str, Any]
    shapes: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, list[int]] = field(default_factory=dict)

    def nodes(self) -> tuple[NodeCost, ...]:
        executed = self.found["nodes"]
        self.weights = {x.name: list(x.dims) for x in self.graph.initializer}
        for event in executed:
            if event["index"] >= 0:
                self.shapes.update(zip(self.graph.node[event["index"]].output, event["outputs"], strict=False))
        kernels = self._kernels([x["us"] for x in executed])
        costs, stage = [], ""
        for event, launched in zip(executed, kernels, strict=True):
            node = self.graph.node[event["index"]] if event["index"] >= 0 else None
            stage = _stage(node) or stage
            costs.append(self._cost(event, node, stage, launched))
        return tuple(costs)

    def _cost(self, event: dict[str, Any], node: Any, stage: str, kernels: tuple[str, ...]) -> NodeCost:
        if node is None:
            return node_cost(event["operator"], stage, event["provider"], kernels, _values((), event["inputs"]), ())
        names, tensors = [x for x in node.input if x], [x for x in event["inputs"] if x[0]]
        outputs = _values(node.output, event["outputs"])
        if node.op_type != event["operator"]:  # exchanged: its own inputs were not read
            tensors = [self.shapes.get(x, (outputs[0].kind, self.weights.get(x, []))) for x in names]
            kernels = (node.op_type,)
        inputs = _by_heads(node, _values(names, tensors))
        return node_cost(node.op_type, stage, event["provider"], kernels, inputs, outputs)

    def _kernels(self, starts: list[float]) -> list[tuple[str, ...]]:
        """Kernels by node."""
        launched: list[list[str]] = [[] for _ in starts]
        for launch in self.found["launches"]:
            launched[max(bisect.bisect_right(starts, launch["us"]) - 1, 0)].append(launch["kernel"])
        return [tuple(x) for x in launched]


def _stage(node: Any) -> str:
    return node.name.partition("/")[0] if node is not None and "/" in node.name else ""


def _by_heads(node: Any, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    """Inputs with queries (B, N, C) as (B, heads, N, C / heads) where an attribute gives the heads."""
    heads = next((x.i for x in node.attribute if x.name in ("num_heads", "q_num_heads")), 0)
    if "Attention" not in node.op_type or not heads or len(inputs[0].shape) != 3:
        return inputs
    batch, tokens, channels = inputs[0].shape
    return (replace(inputs[0], shape=(batch, heads, tokens, channels // heads)), *inputs[1:])


def _values(names: Sequence[str], tensors: Sequence[Tensor]) -> tuple[Value, ...]:
    padded = (*names, *("" for _ in tensors[len(names) :]))
    return tuple(Value(name, kind, tuple(shape)) for name, (kind, shape) in zip(padded, tensors, strict=False))


def node_cost(
    operator: str,
    stage: str,
    provider: str,
    kernels: tuple[str, ...],
    inputs: tuple[Value, ...],
    outputs: tuple[Value, ...],
) -> NodeCost:
    """Count one node; see `NodeCost`."""
    read, written = sum(x.size for x in inputs), sum(x.size for x in outputs)
    traffic = float(min(read, written) + written if operator in _READ_AS_WRITTEN else read + written)
    if not kernels or not provider.startswith("CUDA") or operator.startswith("Memcpy"):
        traffic = 0  # a view, shape arithmetic, or a copy across the bus
    if "Attention" in operator:
        traffic += _attention_internals(inputs, kernels)
    if operator == "Gemm" and any("BroadcastBias" in x for x in kernels):
        traffic += 2.0 * written  # the product adds to rows of the bias that another kernel has written
    flop = _flop(operator, [list(x.shape) for x in inputs], list(outputs[0].shape)) if operator in PRODUCTS else 0
    return NodeCost(operator, stage, provider, flop, traffic, kernels, inputs, outputs)


def _flop(operator: str, inputs: list[list[int]], output: list[int]) -> float:
    left, right, *_ = inputs
    if "Attention" in operator:  # queries (B, heads, N, D) by keys (B, heads, M, D) or (B, M, heads * D), then values
        return 4.0 * math.prod(left) * right[-2]
    if operator == "ConvTranspose":
        return 2.0 * math.prod(left) * math.prod(right[1:])
    if "Conv" in operator:
        return 2.0 * math.prod(output) * math.prod(right[1:])
    # (..., M, K) by (..., K, N), either one possibly transposed: a matrix of the right side has K x N elements.
    return 2.0 * math.prod(output) * (math.prod(right[-2:]) // output[-1]) if math.prod(output) else 0


def _attention_internals(inputs: tuple[Value, ...], kernels: tuple[str, ...]) -> float:
    """Bytes that the kernels of one attention node move between themselves: transposed operands, stored logits."""
    query, key, value, *_ = inputs
    transposes = sum("Transpose" in x for x in kernels)
    operands = (query, key, value, query) if transposes >= 3 else (query, query)
    moved = 2.0 * sum(x.size for x in operands[:transposes])
    if is_unfused(kernels):  # logits are written and read, probabilities too
        heads = query.shape[1] if len(query.shape) == 4 else 1
        moved += 4.0 * _BYTES[query.kind] * query.shape[0] * heads * query.shape[-2] * key.shape[-2]
    return moved


def is_unfused(kernels: tuple[str, ...]) -> bool:
    """Whether an attention node stores its logits: only then a kernel of its own computes the softmax."""
    return any("Softmax" in x for x in kernels)
