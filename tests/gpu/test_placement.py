"""Where the released GPU build of ONNX Runtime places the full-size fp16 graphs, and which kernels it chooses.

The wheel optimises and runs the graphs on CUDA libraries that compute nothing, so no GPU is needed. Seconds, once the
wheel is fetched and the graphs are exported.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.gpu.cost import GraphCost, NodeCost, Sizes, cost_of
from tests.gpu.full_size import full_size_graphs

if TYPE_CHECKING:
    from tests.gpu.stubs import StubGpu

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# docs/guides/local-folders.md states this need of GPU memory for four images a call.
STATED_MEMORY = 6e9
# More elements than this are data, not a shape.
LARGEST_SHAPE = 16
# Parts of kernel names, by the kind of attention; nothing else computes softmax without storing its logits.
KINDS = {"flash": "flash_fwd", "memory-efficient": "attention_kernel_batched_impl", "TensorRT's": "fmha_"}


@pytest.fixture(scope="module", params=[75, 80, 86, 89, 90, 120], ids=lambda x: f"SM {x / 10}")
def placed(request: pytest.FixtureRequest, gpu: StubGpu) -> tuple[GraphCost, ...]:
    return cost_of(gpu, full_size_graphs("fp16"), Sizes(), sm=request.param)


def _kind(node: NodeCost) -> str:
    return next((kind for kind, part in KINDS.items() if any(part in x for x in node.kernels)), "unfused")


def test_only_shape_arithmetic_runs_on_the_cpu(placed: tuple[GraphCost, ...]) -> None:
    for graph in placed:
        on_cpu = [x for x in graph.nodes if not x.provider.startswith("CUDA")]
        large = [x for x in on_cpu if any(math.prod(y.shape) > LARGEST_SHAPE for y in x.outputs)]
        floating = [x for x in on_cpu if any("float" in y.kind for y in x.outputs)]
        assert not large
        assert not floating


def test_every_attention_is_fused(placed: tuple[GraphCost, ...], request: pytest.FixtureRequest) -> None:
    for graph in placed:
        kinds = Counter(_kind(x) for x in graph.nodes if "Attention" in x.operator)
        sys.stdout.write(f"\n{request.node.callspec.id}, {graph.name}: {dict(kinds)}")
        assert kinds["unfused"] == 0


def test_memory_is_within_what_the_guide_states(placed: tuple[GraphCost, ...]) -> None:
    arenas = {x.name: x.arena for x in placed}
    sys.stdout.write(f"\n{', '.join(f'{name} {size / 1e9:.2f} GB' for name, size in arenas.items())}")
    assert sum(arenas.values()) <= STATED_MEMORY
