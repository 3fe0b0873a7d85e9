"""Attention that an artifact computes in parts of its queries, in one operator.

The graphs split attention among thousands of tokens, because ONNX Runtime stores the logits of all queries of one
operator (`export.graphs.operators.attend`). OpenVINO stores a few rows of them, and transposes the keys again for each
part: on two cores with AVX512 one operator takes 0.83 to 0.85 of the time at 5,184 tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13

if TYPE_CHECKING:
    from collections.abc import Sequence

_ATTENTION = "ScaledDotProductAttention"
_QUERY, _KEY, _VALUE, _BIAS = range(4)
_QUERIES = 2
"""Axis of the queries of (B, H, N, D)."""
_NO_BOUNDS = (-1, -1)


def join_query_parts(model: ov.Model) -> int:
    """Join attention in consecutive parts of its queries whose results are concatenated.

    Args:
        model: The graph; it is changed.

    Returns:
        Number of operators that took the place of several.
    """
    joined = 0
    for node in model.get_ordered_ops():
        parts = [value.get_node() for value in node.input_values()]
        if node.get_type_name() != "Concat" or any(part.get_type_name() != _ATTENTION for part in parts):
            continue
        whole = _whole(parts)
        if whole is not None and node.get_axis() in {_QUERIES, _QUERIES - 4}:
            whole.set_friendly_name(node.get_friendly_name())
            whole.output(0).set_names(node.output(0).names)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(whole.output(0))
            joined += 1
    return joined


def _whole(parts: Sequence[Any]) -> Any:
    """One operator for these parts, or None if they are not parts of one, or have a bias, a mask or another scale."""
    first = parts[0]
    if any(part.get_attributes()["causal"] or part.get_input_size() > _BIAS + 1 for part in parts):
        return None
    if any(part.input_value(i) != first.input_value(i) for part in parts for i in (_KEY, _VALUE)):
        return None
    biases = [part.input_value(_BIAS) for part in parts if part.get_input_size() > _BIAS]
    query = _sliced([part.input_value(_QUERY).get_node() for part in parts])
    if query is None or not all(_is_zero(bias) for bias in biases):
        return None
    return opset13.scaled_dot_product_attention(query, *(first.input_value(i) for i in (_KEY, _VALUE)), causal=False)


def _is_zero(value: Any) -> bool:
    """Whether a value is the number 0, as the reader of ONNX files writes for no bias."""
    if value.get_element_type() == ov.Type.boolean or value.get_partial_shape() != ov.PartialShape([]):
        return False
    node = value.get_node()
    while node.get_type_name() in {"ConvertLike", "Convert"}:
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and not np.any(node.data)


def _sliced(slices: Sequence[Any]) -> Any:
    """The value that these nodes slice the queries of, one after the other and all of them; else None."""
    if any(node.get_type_name() != "Slice" for node in slices):
        return None
    source = slices[0].input_value(0)
    shape = source.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4 or shape[_QUERIES].is_dynamic:
        return None
    if any(node.input_value(0) != source for node in slices):
        return None
    after = 0
    for first, end in map(_bounds, slices):
        if first != after or end <= first:
            return None
        after = end
    return source if after >= shape[_QUERIES].get_length() else None


def _bounds(node: Any) -> tuple[int, int]:
    """First and end of a slice of the queries in steps of one; `_NO_BOUNDS` of another slice."""
    constants = [node.input_value(i).get_node() for i in range(1, node.get_input_size())]
    if len(constants) != 4 or any(constant.get_type_name() != "Constant" for constant in constants):
        return _NO_BOUNDS
    first, end, step, axis = (constant.data.reshape(-1).tolist() for constant in constants)
    return (first[0], end[0]) if (step, axis) == ([1], [_QUERIES]) else _NO_BOUNDS
