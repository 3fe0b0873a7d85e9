"""The cost model: FLOP and traffic by operator, and the official model at full size."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.gpu.cards import CARDS
from tests.gpu.cost import GraphCost, NodeCost, Sizes, Value, _flop, cost_of, node_cost
from tests.gpu.report import as_json, card_rows, group_rows, summary_rows, table

if TYPE_CHECKING:
    from tests.gpu.stubs import StubGpu

HALF, CUDA = "float16", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "expected"),
    [
        ("MatMul", [[2, 5, 7], [7, 11]], [2, 5, 11], 2 * 2 * 5 * 7 * 11),
        ("MatMul", [[2, 3, 5, 7], [2, 3, 7, 11]], [2, 3, 5, 11], 2 * 6 * 5 * 7 * 11),
        ("FusedMatMul", [[7, 5], [11, 7]], [5, 11], 2 * 5 * 7 * 11),
        ("Gemm", [[5, 7], [7, 11], [11]], [5, 11], 2 * 5 * 7 * 11),
        ("Conv", [[2, 3, 8, 8], [16, 3, 5, 5]], [2, 16, 4, 4], 2 * 2 * 16 * 16 * 3 * 25),
        ("ConvTranspose", [[2, 3, 8, 8], [3, 16, 2, 2]], [2, 16, 16, 16], 2 * 2 * 3 * 64 * 16 * 4),
        ("Attention", [[2, 4, 10, 8], [2, 4, 33, 8], [2, 4, 33, 8]], [2, 4, 10, 8], 4 * 2 * 4 * 10 * 8 * 33),
    ],
)
def test_flop_of_an_operator(operator: str, inputs: list[list[int]], output: list[int], expected: int) -> None:
    assert _flop(operator, inputs, output) == expected


def _value(kind: str, *shape: int) -> Value:
    return Value("", kind, shape)


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "kernels", "traffic"),
    [
        ("Add", [_value(HALF, 4, 8), _value(HALF, 8)], _value(HALF, 4, 8), ("add",), 2 * (32 + 8 + 32)),
        ("Reshape", [_value(HALF, 32), _value("int64", 2)], _value(HALF, 4, 8), (), 0),
        ("Gather", [_value(HALF, 4000, 8), _value("int64", 4)], _value(HALF, 4, 8), ("gather",), 2 * 64),
        ("Cast", [_value(HALF, 4, 8)], _value("float", 4, 8), ("cast",), 32 * 6),
        ("MatMul", [_value(HALF, 4, 2), _value(HALF, 2, 8)], _value(HALF, 4, 8), ("gemm",), 2 * (8 + 16 + 32)),
    ],
    ids=["two operands", "view", "reads what it writes", "types of two sizes", "product"],
)
def test_traffic_of_a_node(
    operator: str, inputs: list[Value], output: Value, kernels: tuple[str, ...], traffic: int
) -> None:
    assert node_cost(operator, "", CUDA, kernels, tuple(inputs), (output,)).traffic == traffic
    assert node_cost(operator, "", "CPUExecutionProvider", kernels, tuple(inputs), (output,)).traffic == 0


def test_unfused_attention_moves_its_logits_four_times() -> None:
    query, key = _value(HALF, 2, 8, 100, 32), _value(HALF, 2, 8, 33, 32)
    fused, unfused = (
        node_cost("Attention", "", CUDA, kernels, (query, key, key), (query,))
        for kernels in (("flash_fwd_kernel",), ("gemm", "UnfusedSoftmax", "gemm"))
    )
    assert unfused.traffic - fused.traffic == 4 * 2 * (2 * 8 * 100 * 33)


def test_a_product_with_a_bias_reads_and_writes_the_rows_that_another_kernel_filled() -> None:
    inputs, output = (_value(HALF, 4, 2), _value(HALF, 2, 8), _value(HALF, 8)), _value(HALF, 4, 8)
    plain, with_bias = (
        node_cost("Gemm", "", CUDA, kernels, inputs, (output,))
        for kernels in (("cublasGemmEx",), ("BroadcastBiasKernel", "cublasGemmEx"))
    )
    assert with_bias.traffic - plain.traffic == 2 * 2 * 32


def test_prediction_is_the_longer_of_arithmetic_and_traffic_and_the_launches() -> None:
    (card,) = (x for x in CARDS if x.name == "A100")
    product = NodeCost("MatMul", "", CUDA, 0.45 * 312e12, 1.0, ("gemm",), (_value(HALF, 1),), ())
    moved = NodeCost("Add", "", CUDA, 0, 0.8 * 2.039e12, ("a", "b"), (_value(HALF, 1),), ())
    cost = GraphCost("grounding", 3, (product, moved), {}, 0)
    assert cost.seconds(card) == pytest.approx(3 * (1 + 1 + 3 * 2e-6))
    assert cost.launches == 9


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_fp16_graphs(gpu: StubGpu) -> None:
    """FLOP follow from the architecture; traffic and launches from how the graphs are written: they may only fall."""
    from tests.gpu.full_size import full_size_graphs

    sizes = Sizes()
    costs = cost_of(gpu, full_size_graphs("fp16"), sizes)
    for cost in costs:
        sys.stdout.write(f"\n{cost.name}\n{table(group_rows(cost, sizes, 'operator'))}\n")
    sys.stdout.write(f"\n{table(summary_rows(costs, sizes))}\n\n{table(card_rows(costs, sizes))}\n")
    encoder = costs[0]
    assert encoder.flop / sizes.batch == pytest.approx(5.58e12, rel=0.01)
    assert sum(x.flop for x in costs) / sizes.batch == pytest.approx(6.75e12, rel=0.01)
    assert sum(x.traffic for x in costs) / sizes.batch < 22.9e9, "77 GB with the first fp16 graphs"
    assert sum(x.launches for x in costs) < 1050, "3,086 with the first fp16 graphs"
    assert as_json(costs, sizes)["graphs"]["image_encoder"]["launches"] == encoder.launches
