"""A lower bound of traffic and launches: what a compiler reaches that fuses as TensorRT documents it.

TensorRT cannot build an engine without a GPU, so its documented rules ("Types of fusions" in its developer guide) are
applied to the nodes that ONNX Runtime executes, each wherever it is possible:

- Matrix products, convolutions, attention and reductions (normalisation, softmax) are kernels.
- All other nodes (pointwise, casts, transposes, slices, concatenations) between the same kernels are one kernel.
- Such a kernel joins the product or reduction whose result has no other reader.

A real engine can only be slower: it must also find a kernel that does this for each group.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.gpu.cost import PRODUCTS, GraphCost, NodeCost

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REDUCTIONS = (
    "LayerNormalization",
    "SkipLayerNormalization",
    "SimplifiedLayerNormalization",
    "GroupNorm",
    "GroupNormalization",
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "Softmax",
    "NonZero",
)


@dataclass
class _Groups:
    """Sets of nodes, by index, that become one kernel each."""

    parent: list[int] = field(default_factory=list)

    def find(self, index: int) -> int:
        while self.parent[index] != index:
            index = self.parent[index]
        return index

    def join(self, first: int, second: int) -> None:
        self.parent[self.find(second)] = self.find(first)


def fused(cost: GraphCost) -> GraphCost:
    """The graph's cost after every fusion that the rules allow."""
    nodes = [x for x in cost.nodes if x.provider.startswith("CUDA") and not x.operator.startswith("Memcpy")]
    producer = {value.name: i for i, node in enumerate(nodes) for value in node.outputs}
    readers: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for value in node.inputs:
            readers[value.name].append(index)
    groups = _Groups(list(range(len(nodes))))
    depth = _join_pointwise(nodes, producer, groups)
    _join_to_kernels(nodes, readers, groups, depth)
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(nodes)):
        members[groups.find(index)].append(index)
    merged = (_one_kernel(nodes, sorted(x), readers) for x in members.values())
    return replace(cost, nodes=tuple(x for x in merged if x is not None))


def _is_kernel(node: NodeCost) -> bool:
    return node.operator in PRODUCTS or node.operator in REDUCTIONS


def _join_pointwise(nodes: Sequence[NodeCost], producer: dict[str, int], groups: _Groups) -> list[int]:
    """Join neighbours with the same number of kernels before them; another number would make a cycle."""
    depth: list[int] = []
    for index, node in enumerate(nodes):
        before = [producer[x.name] for x in node.inputs if producer.get(x.name, index) < index]
        depth.append(max((depth[x] for x in before), default=0) + _is_kernel(node))
        for other in before:
            if not _is_kernel(node) and not _is_kernel(nodes[other]) and depth[other] == depth[index]:
                groups.join(other, index)
    return depth


def _join_to_kernels(
    nodes: Sequence[NodeCost], readers: dict[str, list[int]], groups: _Groups, depth: Sequence[int]
) -> None:
    taken: set[int] = set()
    by_size = sorted(range(len(nodes)), key=lambda x: -sum(y.size for y in nodes[x].outputs))
    for index in (x for x in by_size if _is_kernel(nodes[x])):
        reading = [y for x in nodes[index].outputs for y in readers[x.name]]
        regions = {groups.find(x) for x in reading}
        simple = len(regions) == 1 and not any(_is_kernel(nodes[x]) or depth[x] != depth[index] for x in reading)
        if simple and not regions & taken:
            taken.add(index)
            groups.join(index, reading[0])
            taken.add(groups.find(index))


def _one_kernel(nodes: Sequence[NodeCost], members: Iterable[int], readers: dict[str, list[int]]) -> NodeCost | None:
    inside = set(members)
    if not any(nodes[x].kernels for x in inside):
        return None  # views
    main = next((nodes[x] for x in sorted(inside) if _is_kernel(nodes[x])), nodes[min(inside)])
    made = {x.name: x for i in inside for x in nodes[i].outputs}
    read = {x.name: x for i in inside for x in nodes[i].inputs if x.name not in made}
    written = [x for name, x in made.items() if not set(readers[name]) <= inside or not readers[name]]
    traffic = float(sum(x.size for x in read.values()) + sum(x.size for x in written))
    return replace(main, traffic=traffic, kernels=("fused",))
