"""Attention in parts of the queries is joined, and only where the parts are one attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

ov = pytest.importorskip("openvino")
ops = pytest.importorskip("openvino.opset13")

from job.model.openvino_runtime.attention import join_query_parts  # noqa: E402

HEADS, TOKENS, KEYS, CHANNELS = 2, 10, 6, 8
WHOLE = [(0, 4), (4, 8), (8, 12)]


def sliced(value: Any, first: int, end: int, *, step: int = 1, axis: int = 2) -> Any:
    return ops.slice(value, *(np.array([number]) for number in (first, end, step, axis)))


def model_of(
    parts: list[tuple[int, int]], *, bias: str = "none", axis: int = 2, keys: int = 1, step: int = 1, queries: int = 1
) -> Any:
    """Attention in parts of the queries, whose results are concatenated."""
    shape = {"query": TOKENS, "key": KEYS, "value": KEYS}
    inputs = [ops.parameter([1, HEADS, size, CHANNELS], np.float32, name=name) for name, size in shape.items()]
    query, key, value = inputs
    row = ops.parameter([1, 1, 1, KEYS], np.float32, name="bias")
    rows = ops.broadcast(row, np.array([1, 1, TOKENS, KEYS]))
    found = []
    for number, (first, end) in enumerate(parts):
        biases = {
            "none": [],
            "causal": [],
            "mask": [ops.constant(np.array(False))],
            "zeros": [ops.constant(np.zeros((1, 1, 1, KEYS), np.float32))],
            "zero": [ops.constant(np.float32(0))],
            "one": [ops.constant(np.float32(number))],
            "rows": [sliced(rows, first, end, step=step)],
            "scale": [ops.constant(np.float32(0)), ops.constant(np.float32(0.5))],
        }[bias]
        asked = query if number < queries else ops.relu(query)
        seen = key if number < keys else ops.relu(key)
        taken = sliced(asked, first, end, step=step)
        found.append(ops.scaled_dot_product_attention(taken, seen, value, *biases, causal=bias == "causal"))
    joined = ops.concat(found, axis)
    joined.output(0).set_names({"answer"})
    result = ops.result(joined)
    return ov.Model([result], [*inputs, *([row] if bias == "rows" else [])])


def answer(model: Any) -> Any:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    random = np.random.default_rng(1)
    values = [random.standard_normal(tuple(port.shape)).astype(np.float32) for port in compiled.inputs]
    return next(iter(compiled(values).values())).copy()


def operators(model: Any, name: str = "ScaledDotProductAttention") -> int:
    return sum(node.get_type_name() == name for node in model.get_ops())


ALL = {"keys": 3, "queries": 3}


@pytest.mark.parametrize("bias", ["none", "zero"])
def test_parts_of_one_attention_are_joined(bias: str) -> None:
    expected = answer(model_of(WHOLE, bias=bias, **ALL))
    model = model_of(WHOLE, bias=bias, **ALL)
    assert (join_query_parts(model), operators(model), operators(model, "Concat")) == (1, 1, 0)
    assert model.output(0).names == {"answer"}
    np.testing.assert_allclose(answer(model), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("parts", "changes"),
    [
        pytest.param([(4, 8), (0, 4), (8, 12)], {}, id="another order"),
        pytest.param([(0, 4), (4, 8)], {}, id="not all queries"),
        pytest.param([(0, 4), (3, 8), (8, 12)], {}, id="queries that overlap"),
        pytest.param([(0, 8), (8, 4), (4, 10)], {}, id="queries backwards"),
        pytest.param(WHOLE, {"step": 2}, id="every second query"),
        pytest.param(WHOLE, {"keys": 1}, id="other keys"),
        pytest.param(WHOLE, {"queries": 1}, id="other queries"),
        pytest.param([(0, 5), (5, 10)], {"axis": 3}, id="joined along the channels"),
        pytest.param(WHOLE, {"bias": "one"}, id="a bias of each part"),
        pytest.param(WHOLE, {"bias": "rows"}, id="a bias of each query"),
        pytest.param(WHOLE, {"bias": "causal"}, id="a causal mask"),
        pytest.param(WHOLE, {"bias": "scale"}, id="another scale"),
        pytest.param(WHOLE, {"bias": "mask"}, id="a mask"),
        pytest.param(WHOLE, {"bias": "zeros"}, id="a bias of another shape"),
    ],
)
def test_other_parts_stay_apart(parts: list[tuple[int, int]], changes: dict[str, Any]) -> None:
    given = ALL | changes
    expected = answer(model_of(parts, **given))
    model = model_of(parts, **given)
    assert join_query_parts(model) == 0
    assert operators(model) == len(parts)
    np.testing.assert_array_equal(answer(model), expected)
