"""The grounding graph in parts: what depends on the image alone, the fusion with the prompt, and the query decoder.

The first part runs once an image, the others once a prompt. A bf16 or int8 artifact computes the first two in bfloat16:
they take most of the time and lose little. The query decoder and the heads refine coordinates of boxes: in bfloat16
they move scores by 0.02 (demo model). Of the decoder, only what it makes of the image tokens alone, the keys and values
of its attention, belongs to the fusion. OpenVINO has one precision for a compiled graph, so each part is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openvino as ov
from openvino import opset13
from openvino.passes import ConstantFolding, Manager

from job.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


def split_before_text(model: ov.Model, text: Collection[str]) -> tuple[ov.Model, ov.Model]:
    """Cut a graph into what does not depend on some of its inputs, and the rest, which takes the outputs of the first.

    Args:
        model: The graph; it is changed.
        text: Names of the inputs.
    """
    folding = Manager()
    folding.register_pass(ConstantFolding())  # else shapes, which depend on images alone, would be such outputs
    folding.run_passes(model)
    return _cut(model, _values_before(model, text, None), "image")


def split_after_fusion(model: ov.Model, memory: str, text: Collection[str]) -> tuple[ov.Model, ov.Model]:
    """Cut the grounding graph behind the last tensor that both the memory and the query decoder read.

    What depends on this tensor and on no other input of the prompt is in the first part too.

    Args:
        model: The graph; it is changed.
        memory: Name of its output that is made from the fusion alone.
        text: Names of its inputs that belong to the prompt.

    Returns:
        The fusion, and the rest, which takes its outputs.

    Raises:
        ArtifactError: The graph has no such tensor.
    """
    fused = _last_shared(model, memory)
    return _cut(model, [fused, *_values_before(model, text, fused)], "fused")


def _values_before(model: ov.Model, late: Collection[str], known: Any) -> list[Any]:
    """Values that depend on no late input, and are read by operators that do; the known value counts as no late one."""
    is_late: dict[str, bool] = {}
    varies: dict[str, bool] = {}
    for node in model.get_ordered_ops():
        name, is_input = node.get_name(), node.get_type_name() == "Parameter"
        values = [(value, value.get_node().get_name()) for value in node.input_values()]
        is_late[name] = any(is_late[source] for value, source in values if value != known)
        is_late[name] |= is_input and not node.output(0).names.isdisjoint(late)
        varies[name] = is_input or any(varies[source] for _, source in values)
    computed = (node for node in model.get_ordered_ops() if node.get_type_name() != "Parameter")
    early = (node for node in computed if varies[node.get_name()] and not is_late[node.get_name()])
    return [
        value
        for node in early
        for value in node.outputs()
        if any(is_late[reader.get_node().get_name()] for reader in value.get_target_inputs())
    ]


def _cut(model: ov.Model, values: Sequence[Any], prefix: str) -> tuple[ov.Model, ov.Model]:
    """Cut a graph at values: what computes them, and the rest; what both need besides is in both."""
    first = _ancestors([value.get_node() for value in values])
    inputs = []
    for number, value in enumerate(values):
        between = opset13.parameter(value.get_partial_shape(), value.get_element_type(), name=f"{prefix}_{number}")
        for reader in value.get_target_inputs():
            if reader.get_node().get_name() not in first:
                reader.replace_source_output(between.output(0))
        between.output(0).set_names({f"{prefix}_{number}"})
        inputs.append(between)
    ends = [value.get_node() for value in values]
    head = ov.Model([opset13.result(value) for value in values], _parameters(model, ends))
    rest = ov.Model(model.get_results(), [*_parameters(model, model.get_results()), *inputs])
    for number, value in enumerate(head.outputs):
        value.get_tensor().set_names({f"{prefix}_{number}"})
    return head, rest


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
