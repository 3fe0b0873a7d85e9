"""Operators of the graphs: plain torch, or one fused operator of ONNX Runtime in an ONNX export in half precision.

Float32 graphs hold operators of the ONNX standard only, so that each runtime can read them. Half precision is for
GPUs, where memory traffic decides: there attention, rotary positions, the sum before a normalisation and the bias
before an activation are one kernel each. B rows, N and M tokens, C channels, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

QUERY_CHUNK = 576
"""Largest number of queries in one attention of a float32 ONNX graph; see `attend`."""

_CONTRIB = "com.microsoft"


class Rotation(nn.Module):
    """Rotary positions: the angles of N tokens, in the forms that `rotate` and the fused operator read."""

    cosine: Tensor
    sine: Tensor
    wide_cosine: Tensor
    wide_sine: Tensor

    def __init__(self, cosine: Tensor, sine: Tensor) -> None:
        """Take cosine and sine (N, D / 2) of the angles, for the D channels of a head; they have the type of tokens."""
        super().__init__()
        for name, values in (("cosine", cosine), ("sine", sine)):
            self.register_buffer(name, values.contiguous(), persistent=False)
            self.register_buffer(f"wide_{name}", values.repeat(1, 2)[None, None].contiguous(), persistent=False)


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None, rotation: Rotation | None = None
) -> Tensor:
    """Attend with several heads.

    ONNX Runtime's float32 `Attention` for CPUs stores the logits of all queries and keys: 1.7 GB for the 5,184 tokens
    of an image. An ONNX export in float32 therefore splits the queries, each part attends to all keys.
    `job.model.openvino_runtime.attention` joins those without a bias again.

    Args:
        query: (B, N, C).
        key: (B, M, C).
        value: (B, M, C).
        heads: H.
        bias: Added to the logits, (B or 1, H or 1, N, M).
        rotation: Turns queries and keys, N = M, see `rotate`.

    Returns:
        (B, N, C).
    """
    if torch.onnx.is_in_onnx_export() and query.dtype == torch.float16:
        if rotation is not None:
            query, key = (_rotate_fused(x, rotation) for x in (query, key))
        inputs = (query, key, value, None, None, bias)
        return _fused("MultiHeadAttention", inputs, {"num_heads": heads}, query)
    q, k, v = (unflatten(x, -1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if rotation is not None:
        q, k = rotate(q, rotation), rotate(k, rotation)
    tokens = q.shape[2]
    parts = -(-tokens // QUERY_CHUNK) if torch.onnx.is_in_onnx_export() else 1
    if parts == 1:
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    else:
        size = -(-tokens // parts)
        rows = [slice(i, i + size) for i in range(0, tokens, size)]
        biases = [None if bias is None else bias[:, :, row] for row in rows]
        chunks = (
            F.scaled_dot_product_attention(q[:, :, row], k, v, attn_mask=x) for row, x in zip(rows, biases, strict=True)
        )
        found = torch.cat(tuple(chunks), 2)
    return found.transpose(1, 2).flatten(2)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair (i, i + D / 2) of the D channels of every head by the angle of its token.

    OpenVINO computes this form in one operator, which also reads (B, N, H, D) in the place of its transposition.

    Args:
        x: (B, H, N, D).
        rotation: Angles of the N tokens.

    Returns:
        (B, H, N, D).
    """
    half = x.shape[-1] // 2
    swapped = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * rotation.wide_cosine + swapped * rotation.wide_sine


def add_and_normalize(x: Tensor, branch: Tensor, bias: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Add a branch and its bias to the residual stream.

    Args:
        x: (B, N, C).
        branch: (B, N, C), without its bias.
        bias: (C,).
        norm: Normalisation over C.

    Returns:
        The sum and its normalisation.
    """
    if torch.onnx.is_in_onnx_export() and x.dtype == torch.float16:
        normalized, _, _, total = torch.onnx.ops.symbolic_multi_out(
            f"{_CONTRIB}::SkipLayerNormalization",
            (x, branch, norm.weight, norm.bias, bias),
            {"epsilon": norm.eps},
            dtypes=(x.dtype, torch.float32, torch.float32, x.dtype),
            shapes=(x.shape, (), (), x.shape),
            version=1,
        )
        return total, normalized
    total = x + (branch if bias is None else branch + bias)
    return total, norm(total)


def centered(pixels: Tensor, middle: int, kind: torch.dtype) -> Tensor:
    """Bytes minus a byte, as a floating type."""
    if not (torch.onnx.is_in_onnx_export() and kind == torch.float16):
        return pixels.to(kind) - middle
    inputs = (pixels, torch.ones((), dtype=kind), torch.tensor(middle, dtype=torch.uint8))
    like = torch.empty(pixels.shape, dtype=kind)
    return _fused("DequantizeLinear", inputs, {}, like, domain="")


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Add a bias (C,) to (B, N, C) and apply the exact GELU."""
    if torch.onnx.is_in_onnx_export() and x.dtype == torch.float16:
        return _fused("BiasGelu", (x, bias), {}, x)
    return F.gelu(x + bias)


def normalize_groups(x: Tensor, groups: int, eps: float) -> Tensor:
    """Normalize (1, C, h, w) by groups of channels, without scale and bias.

    ONNX Runtime has no CUDA kernel for `GroupNormalization`, and inlines it as a dozen float32 operators. The groups
    of one row are the channels of `InstanceNormalization`, whose kernel accumulates in float32.
    """
    if not (torch.onnx.is_in_onnx_export() and x.dtype == torch.float16):
        return F.group_norm(x, groups, eps=eps)
    rows, channels, height, width = x.shape
    assert rows == 1
    ones = torch.ones(groups, dtype=x.dtype)
    grouped = x.reshape(1, groups, channels // groups * height, width)
    inputs = (grouped, ones, torch.zeros_like(ones))
    return _fused("InstanceNormalization", inputs, {"epsilon": eps}, grouped, domain="").reshape(x.shape)


def add_upsampled(feature: Tensor, x: Tensor, mode: str) -> Tensor:
    """Add (1, C, h, w), enlarged to twice its sides, to a feature map (1, C, 2 h, 2 w)."""
    if not (torch.onnx.is_in_onnx_export() and x.dtype == torch.float16):
        return feature + F.interpolate(x, size=feature.shape[-2:], mode=mode)
    # One operator that broadcasts instead of a resized copy.
    assert mode == "nearest"
    height, width = x.shape[-2:]
    pairs = unflatten(unflatten(feature, -1, (width, 2)), 2, (height, 2))
    return (pairs + x[:, :, :, None, :, None]).reshape(feature.shape)


def unflatten(x: Tensor, axis: int, sizes: tuple[int, ...]) -> Tensor:
    """Split one axis into several."""
    split: Tensor = x.unflatten(axis, sizes)  # type: ignore[no-untyped-call]
    return split


def _rotate_fused(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn (B, N, C) as `rotate` does."""
    first = torch.zeros(1, dtype=torch.int64, device=x.device)
    return _fused("RotaryEmbedding", (x, first, rotation.cosine, rotation.sine), {"interleaved": 0}, x)


def _fused(
    operator: str,
    inputs: tuple[Tensor | None, ...],
    attributes: dict[str, Any],
    like: Tensor,
    domain: str = _CONTRIB,
) -> Tensor:
    """One operator with one output, of the shape and type of `like`."""
    name = f"{domain}::{operator}" if domain else operator
    version = 1 if domain else None
    return torch.onnx.ops.symbolic(name, inputs, attributes, dtype=like.dtype, shape=like.shape, version=version)
