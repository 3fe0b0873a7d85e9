"""Fused operators and split attention compute what plain torch computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from export.graphs import operators
from export.graphs.operators import (
    Rotation,
    add_and_normalize,
    add_upsampled,
    attend,
    bias_gelu,
    centered,
    normalize_groups,
)
from export.sam3_runtime import quiet

ROWS, TOKENS, CHANNELS, HEADS = 2, 36, 32, 4


class Calling(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs, *self.layers)


def exported(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, opset: int = 23) -> tuple[list[str], Tensor]:
    """Operators of the exported graph, and what it computes."""
    with quiet(), torch.no_grad():
        torch.onnx.export(module, inputs, path, opset_version=opset, dynamo=True, verbose=False)
    import onnx

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {x.name: value.numpy() for x, value in zip(session.get_inputs(), inputs, strict=True)}
    return [node.op_type for node in onnx.load(path).graph.node], torch.from_numpy(session.run(None, feed)[0])


def tokens(kind: torch.dtype, seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (ROWS, TOKENS, CHANNELS), generator=generator).to(kind)


def rotated(query: Tensor, key: Tensor) -> Tensor:
    angles = torch.arange(TOKENS)[:, None] / torch.arange(1, CHANNELS // HEADS // 2 + 1)
    rotation = Rotation(angles.cos().to(query.dtype), angles.sin().to(query.dtype))
    return attend(query, key, key, HEADS, rotation=rotation)


def normalized(x: Tensor, branch: Tensor, norm: nn.LayerNorm) -> Tensor:
    total, after = add_and_normalize(x, branch, norm.bias, norm)
    return torch.cat((total, after))


def attended(query: Tensor, key: Tensor) -> Tensor:
    bias = (torch.arange(TOKENS) % 5 == 0).to(query.dtype) * -30000.0
    return attend(query, key, key, HEADS, bias.expand(ROWS, 1, TOKENS, TOKENS))


@pytest.mark.parametrize(
    ("function", "layers", "inputs", "fused"),
    [
        pytest.param(attended, [], 2, "MultiHeadAttention", id="attention"),
        pytest.param(rotated, [], 2, "RotaryEmbedding", id="rotary positions"),
        pytest.param(normalized, [nn.LayerNorm(CHANNELS)], 2, "SkipLayerNormalization", id="residual stream"),
        pytest.param(lambda x: bias_gelu(x, x[0, 0]), [], 1, "BiasGelu", id="activation"),
    ],
)
def test_a_fused_operator_computes_what_torch_computes(
    function: Callable[..., Tensor], layers: list[nn.Module], inputs: int, fused: str, tmp_path: Path
) -> None:
    module = Calling(function, *layers).to(torch.float16)
    given = tuple(tokens(torch.float16, seed) for seed in range(inputs))
    found, answer = exported(module, given, tmp_path / "graph.onnx")
    assert fused in found
    expected = module.to(torch.float32)(*(x.to(torch.float32) for x in given))
    torch.testing.assert_close(answer.to(torch.float32), expected, atol=4e-3, rtol=4e-3)


def test_every_byte_is_centered_exactly(tmp_path: Path) -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    found, answer = exported(Calling(lambda x: centered(x, 128, torch.float16)), (pixels,), tmp_path / "graph.onnx")
    assert found == ["DequantizeLinear"]
    torch.testing.assert_close(answer, torch.arange(-128, 128, dtype=torch.float16), atol=0, rtol=0)


def test_groups_are_normalized_as_torch_does(tmp_path: Path) -> None:
    module = Calling(lambda x: normalize_groups(x, 4, 1e-5)).to(torch.float16)
    x = 3 * tokens(torch.float16, 0, 1, CHANNELS, 6, 6) + 2
    found, answer = exported(module, (x,), tmp_path / "graph.onnx", opset=21)
    assert "InstanceNormalization" in found
    expected = nn.functional.group_norm(x.to(torch.float32), 4)
    torch.testing.assert_close(answer.to(torch.float32), expected, atol=4e-3, rtol=4e-3)


def test_an_upsampled_map_is_added_as_torch_does(tmp_path: Path) -> None:
    feature, x = tokens(torch.float16, 0, 1, 8, 12, 6), tokens(torch.float16, 1, 1, 8, 6, 3)
    found, answer = exported(Calling(lambda *maps: add_upsampled(*maps, "nearest")), (feature, x), tmp_path / "g.onnx")
    assert found.count("Add") == 1
    assert "Resize" not in found
    torch.testing.assert_close(answer, add_upsampled(feature, x, "nearest"), atol=0, rtol=0)


@pytest.mark.parametrize("chunk", [7, 12, TOKENS])
def test_attention_in_parts_of_the_queries_is_the_same(
    chunk: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(operators, "QUERY_CHUNK", chunk)
    given = (tokens(torch.float32, 0), tokens(torch.float32, 1))
    found, answer = exported(Calling(attended), given, tmp_path / "graph.onnx")
    assert found.count("Attention") == -(-TOKENS // chunk)
    torch.testing.assert_close(answer, attended(*given), atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(answer.shape, given[0].shape)


def test_openvino_joins_the_parts_and_turns_in_one_operator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino")
    from job.model.openvino_runtime.attention import join_query_parts

    monkeypatch.setattr(operators, "QUERY_CHUNK", 7)
    given, path = (tokens(torch.float32, 0), tokens(torch.float32, 1)), tmp_path / "graph.onnx"
    exported(Calling(rotated), given, path)
    core = ov.Core()
    model = core.read_model(path)
    assert join_query_parts(model) == 1
    assert [node.get_type_name() for node in model.get_ops()].count("ScaledDotProductAttention") == 1
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()]
    assert kinds.count("RoPE") == 2
    answer = torch.from_numpy(next(iter(compiled([x.numpy() for x in given]).values())).copy())
    torch.testing.assert_close(answer, rotated(*given), atol=1e-5, rtol=1e-5)
