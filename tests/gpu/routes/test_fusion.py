"""The lower bound by TensorRT's rules, on graphs of a few nodes."""

from __future__ import annotations

from tests.gpu.cost import GraphCost, NodeCost, Value, node_cost
from tests.gpu.routes.fusion import fused

SIZE = 1000
BYTES = 2 * SIZE


def _node(operator: str, inputs: str, output: str) -> NodeCost:
    values = tuple(Value(x, "float16", (1, SIZE) if operator != "MatMul" or x != "w" else (SIZE, SIZE)) for x in inputs)
    return node_cost(operator, "", "CUDA", ("kernel",), values, (Value(output, "float16", (1, SIZE)),))


def _fused(*nodes: NodeCost) -> tuple[NodeCost, ...]:
    return fused(GraphCost("grounding", 1, nodes, {}, 0)).nodes


def test_pointwise_nodes_join_the_product_before_them() -> None:
    (kernel,) = _fused(_node("MatMul", "xw", "a"), _node("Add", "ab", "c"), _node("Cast", "c", "d"))
    assert kernel.operator == "MatMul"
    assert kernel.traffic == BYTES * (1 + SIZE + 1 + 1), "x, weights, b, d: neither a nor c"


def test_a_result_with_two_readers_is_written() -> None:
    nodes = _fused(_node("MatMul", "xw", "a"), _node("Relu", "a", "b"), _node("MatMul", "aw", "c"))
    assert len(nodes) == 3


def test_a_residual_sum_does_not_join_across_a_product() -> None:
    """`d` needs the product of `b`: one kernel for `b` and `d` would wait for itself."""
    nodes = _fused(_node("Add", "xy", "b"), _node("MatMul", "bw", "c"), _node("Add", "bc", "d"))
    assert sorted(x.operator for x in nodes) == ["Add", "MatMul"]
    assert sum(len(x.kernels) for x in nodes) == 2


def test_neighbours_between_kernels_are_one_kernel() -> None:
    (kernel,) = _fused(_node("Add", "xy", "a"), _node("Transpose", "a", "b"), _node("Mul", "bz", "c"))
    assert kernel.traffic == BYTES * 4
