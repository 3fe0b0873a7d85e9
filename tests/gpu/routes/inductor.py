"""Kernels and traffic of the graphs' torch modules after TorchInductor's scheduler, for a GPU, without one.

`python -m tests.gpu.routes.inductor` prints them. AOTInductor (`torch.export`, then `aoti_compile_and_package`)
generates one kernel for each node of this schedule. Tensors are fake and lie on a CUDA device that does not exist, so
lowering and fusion are torch's own; nothing is generated, compiled or run. Fused attention is chosen as on a GPU: flash
without a mask, memory-efficient with one.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from tests.gpu.cost import GRAPHS, GraphCost, NodeCost, Sizes, Value, calls_of, node_cost
from tests.gpu.report import card_rows, group_rows, summary_rows, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

# An A100, as torch.cuda.get_device_properties describes it.
_DEVICE = SimpleNamespace(
    name="stub",
    major=8,
    minor=0,
    total_memory=80 * 2**30,
    multi_processor_count=108,
    warp_size=32,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=166912,
    shared_memory_per_multiprocessor=167936,
    max_threads_per_block=1024,
    gcnArchName="",
    is_integrated=False,
    L2_cache_size=40 * 2**20,
    clock_rate=1410000,
)
_OPERATORS = {"mm": "MatMul", "bmm": "MatMul", "addmm": "MatMul", "baddbmm": "MatMul", "convolution": "Conv"}


def scheduled(name: str, module: nn.Module, examples: Sequence[Tensor], sizes: Sizes, calls: int = 1) -> GraphCost:
    """Trace, lower and schedule a module; shapes are those of the examples, whose values are not read."""
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        traced, arguments = _traced(module, examples, sizes)
        with _a_device(), V.set_fake_mode(mode):
            _passes(traced)
            graph = GraphLowering(traced, example_inputs=arguments, shape_env=None, is_inference=True)
            with V.set_graph_handler(graph), V.set_debug_handler(DebugContext()):
                graph.run(*arguments)
                graph._update_scheduler()
                nodes = [_cost(x) for x in graph.scheduler.nodes]
    return GraphCost(name, calls, tuple(x for x in nodes if x is not None), {}, 0)


def _traced(module: nn.Module, examples: Sequence[Tensor], sizes: Sizes) -> tuple[Any, list[Tensor]]:
    from torch._inductor.decomposition import select_decomp_table

    state = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}

    def on_device(x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")

    weights, inputs = [on_device(x) for x in state.values()], [on_device(x) for x in examples]

    def call(given: list[Tensor], *inputs: Tensor) -> Any:
        return torch.func.functional_call(module, dict(zip(state, given, strict=True)), inputs, tie_weights=False)

    with _FixedNonzero(sizes.selected), patch.object(F, "scaled_dot_product_attention", _fused_attention):
        traced = make_fx(call, decomposition_table=select_decomp_table())(weights, *inputs)
    traced.graph.set_codegen(torch.fx.graph.CodeGen())  # inputs and outputs as flat lists
    return traced, [*weights, *inputs]


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Any:
    aten = torch.ops.aten
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(q, k, v)[0]
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
    bias = attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    return aten._scaled_dot_product_efficient_attention(q, k, v, bias, False)[0]


def _passes(traced: Any) -> None:
    """Inductor's passes over the traced graph, without those that compute on the device.

    These fold constants, and find attention in its parts; attention is chosen already.
    """
    from torch._inductor import config
    from torch._inductor.fx_passes import joint_graph, post_grad

    with ExitStack() as stack:
        stack.enter_context(config.patch(joint_graph_constant_folding=False))
        for passes in (joint_graph, post_grad):
            stack.enter_context(patch.object(passes, "lazy_init", _nothing))
        joint_graph.joint_graph_passes(traced)
        post_grad.post_grad_passes(traced, True)
        post_grad.view_to_reshape(traced)  # type: ignore[no-untyped-call]


def _nothing(*_: Any) -> None: ...


def _cost(scheduled_node: Any) -> NodeCost | None:
    traffic = float(scheduled_node.get_read_write_buffers_sizes())
    kind = type(scheduled_node).__name__
    if kind == "NopKernelSchedulerNode" or not traffic:
        return None
    if kind != "ExternKernelSchedulerNode":
        return NodeCost("generated kernel", "", "CUDA", 0, traffic, (kind,), (), ())
    node = scheduled_node.node
    kernel = str(node.python_kernel_name).removeprefix("torch.ops.aten.").removeprefix("extern_kernels.")
    operator = "Attention" if "attention" in kernel else _OPERATORS.get(kernel.partition(".")[0], kernel)
    if operator not in {*_OPERATORS.values(), "Attention"}:
        return NodeCost(operator, "", "CUDA", 0, traffic, (kernel,), (), ())
    inputs = [_value(x) for x in node.inputs]
    if kernel in {"addmm", "baddbmm"}:
        inputs = [*inputs[1:], inputs[0]]
    if operator == "Conv" and node.kwargs.get("transposed", False):
        operator = "ConvTranspose"
    output = Value("", inputs[0].kind, _shape(node) if operator != "Attention" else inputs[0].shape)
    flop = node_cost(operator, "", "CUDA", (kernel,), tuple(inputs), (output,)).flop
    return NodeCost(operator, "", "CUDA", flop, traffic, (kernel,), tuple(inputs), (output,))


def _value(node: Any) -> Value:
    kind = str(node.get_dtype()).removeprefix("torch.").replace("float32", "float")
    return Value("", kind, _shape(node))


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(int(x) for x in node.get_size())


class _FixedNonzero(TorchFunctionMode):
    """Gives `torch.nonzero` a fixed number of rows: on a fake tensor it has none."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nonzero:
            return torch.zeros(self.rows, args[0].ndim, dtype=torch.int64, device=args[0].device)
        return func(*args, **(kwargs or {}))


@contextmanager
def _a_device() -> Iterator[None]:
    """What Inductor asks of a CUDA device, while it schedules."""
    from torch._dynamo.device_interface import CudaInterface

    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (8, 0),
        "get_device_properties": _DEVICE,
    }
    with ExitStack() as stack:
        for owner in (torch.cuda, CudaInterface, CudaInterface.Worker):
            for name, answer in answers.items():
                if hasattr(owner, name):
                    stack.enter_context(patch.object(owner, name, staticmethod(_always(answer))))
        stack.enter_context(patch.object(CudaInterface, "get_compute_capability", staticmethod(_always(80))))
        yield


def _always(answer: Any) -> Any:
    def function(*_: Any, **__: Any) -> Any:
        return answer

    return function


def official_costs(sizes: Sizes) -> list[GraphCost]:
    """Schedule the modules of the official model in fp16; shapes are those of one batch."""
    from export.graphs import graphs
    from tests.gpu.full_size import official_model

    graphs.EXAMPLE_SIZES.update(batch=sizes.batch, prompts=sizes.prompts)
    modules = {x.name: (x.module, x.examples()) for x in graphs.graphs_of(official_model(), "fp16")}
    return [scheduled(name, *modules[name], sizes, calls_of(name, sizes)) for name in GRAPHS if name in modules]


def main() -> None:
    """Print kernels, traffic and prediction of the official model's modules in fp16."""
    sizes = Sizes()
    costs = official_costs(sizes)
    parts = [f"{x.name}\n{table(group_rows(x, sizes, 'operator'))}" for x in costs]
    sys.stdout.write("\n\n".join([*parts, table(summary_rows(costs, sizes)), table(card_rows(costs, sizes))]) + "\n")


if __name__ == "__main__":
    main()
