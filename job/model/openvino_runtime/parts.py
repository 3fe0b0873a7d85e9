"""The two parts of the grounding graph of a bf16 artifact: the fusion with the prompt, and everything after it.

The fusion takes most of the time and loses little in bfloat16. The query decoder and the heads refine coordinates of
boxes: in bfloat16 they move scores by 0.02 (demo model). OpenVINO has one precision for a compiled graph, so the graph
is compiled as two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openvino as ov
from openvino import opset13

from job.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable

FUSED = "fused"
"""Name of the tensor between the parts: image tokens after the fusion, (B * P, T, C)."""


def split_after_fusion(model: ov.Model, memory: str) -> tuple[ov.Model, ov.Model]:
    """Cut the grounding graph behind the last tensor that both the memory and the query decoder read.

    What both parts need besides is in both.

    Args:
        model: The graph; it is changed.
        memory: Name of its output that is made from the fusion alone.

    Returns:
        The fusion, with the output `FUSED`, and the rest, with that input.

    Raises:
        ArtifactError: The graph has no such tensor.
    """
    fused = _last_shared(model, memory)
    between = opset13.parameter(fused.get_partial_shape(), fused.get_element_type(), name=FUSED)
    for reader in fused.get_target_inputs():
        reader.replace_source_output(between.output(0))
    between.output(0).set_names({FUSED})
    fusion = ov.Model([opset13.result(fused)], _parameters(model, [fused.get_node()]))
    rest = ov.Model(model.get_results(), [*_parameters(model, model.get_results()), between])
    fusion.outputs[0].get_tensor().set_names({FUSED})
    return fusion, rest


def _last_shared(model: ov.Model, memory: str) -> Any:
    """Walk up from the memory, along first inputs, to a value that nodes outside of its own computation read too."""
    result = model.output(memory).get_node()
    inside = _ancestors([result])
    value = result.input_value(0)
    while all(reader.get_node().get_name() in inside for reader in value.get_target_inputs()):
        node = value.get_node()
        if not node.get_input_size():
            raise ArtifactError(f"the grounding graph computes {memory} apart from its scores: export the model again")
        value = node.input_value(0)
    return value


def _parameters(model: ov.Model, ends: Iterable[Any]) -> list[Any]:
    """The inputs of the model that the ends depend on."""
    needed = _ancestors(ends)
    return [parameter for parameter in model.get_parameters() if parameter.get_name() in needed]


def _ancestors(ends: Iterable[Any]) -> set[str]:
    """Names of nodes and of all that they depend on."""
    found: set[str] = set()
    pending = list(ends)
    while pending:
        node = pending.pop()
        if node.get_name() not in found:
            found.add(node.get_name())
            pending += [value.get_node() for value in node.input_values()]
    return found
