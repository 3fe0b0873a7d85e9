"""Attention that every exporter supports: projections and one scaled dot product.

sam3 attends through `nn.MultiheadAttention` (averaged weights, a fast path, masks of many kinds) and through
a rotary attention on complex numbers. Neither exports well. These two classes compute the same from the same
weights; `replace_attention` puts them into a copy of the model.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable


class PlainAttention(nn.Module):
    """Replaces one `nn.MultiheadAttention`, without dropout and averaged weights."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        assert source.in_proj_weight is not None
        self.heads = source.num_heads
        self.batch_first = source.batch_first
        weights, biases = source.in_proj_weight.chunk(3), source.in_proj_bias.chunk(3)
        self.to_query, self.to_key, self.to_value = map(linear_of, weights, biases)
        self.to_output = linear_of(source.out_proj.weight, source.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attend.

        Args:
            query: (B, N, C), or (N, B, C) when not batch first; key and value likewise with M tokens.
            key: See `query`.
            value: See `query`.
            attn_mask: Added to the attention logits, (N, M) or (B * heads, N, M).
            key_padding_mask: bool (B, M), True is left out.

        Returns:
            Tokens of the shape of `query`, and None where the original returns weights.
        """
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._split(self.to_query(query)), self._split(self.to_key(key)), self._split(self.to_value(value))
        mask = self._mask(attn_mask, key_padding_mask, q)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.to_output(attended.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, heads, N, C / heads)."""
        return x.reshape(*x.shape[:2], self.heads, x.shape[-1] // self.heads).transpose(1, 2)

    def _mask(self, added: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """One mask that broadcasts against (B, heads, N, M)."""
        if padding is not None:
            return (~padding)[:, None, None].expand(-1, 1, q.shape[2], -1)
        if added is None:
            return None
        added = added.to(q.dtype)
        return added if added.ndim == 2 else added.reshape(q.shape[0], self.heads, *added.shape[1:])


class RotaryAttention(nn.Module):
    """Replaces one `sam3.model.vitdet.Attention` with rotary positions.

    The original turns neighbouring pairs of channels. Here the rows of the query and key weights are reordered
    so that the first elements of all pairs come first: the same dot products, and turning is one swap of halves.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.heads: int = source.num_heads
        self.input_size: tuple[int, int] = source.input_size
        self.to_qkv = linear_of(*_halves_first(source.qkv, source.num_heads))
        self.to_output = linear_of(source.proj.weight, source.proj.bias)
        cosine, sine = source.freqs_cis.real, source.freqs_cis.imag
        self.register_buffer("cosine", torch.cat((cosine, cosine), -1), persistent=False)
        self.register_buffer("sine", torch.cat((-sine, sine), -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among the tokens of each (H, W) window: (B, H, W, C) to the same."""
        batch, height, width, channels = x.shape
        qkv = self.to_qkv(x).reshape(batch, height * width, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(self._turn(q), self._turn(k), v)
        out: Tensor = self.to_output(attended.transpose(1, 2).reshape(batch, height, width, channels))
        return out

    def _turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return (x * self.cosine + torch.cat((second, first), -1) * self.sine).to(x.dtype)


def replace_attention(model: nn.Module) -> None:
    """Replace every attention inside `model` with one that can be exported."""
    from sam3.model.vitdet import Attention

    replace_modules(model, (nn.MultiheadAttention,), PlainAttention)
    replace_modules(model, (Attention,), RotaryAttention)


def replace_modules(root: nn.Module, kinds: tuple[type[Any], ...], factory: Callable[[Any], nn.Module]) -> None:
    """Replace every submodule of the given types with the result of `factory`."""
    for parent in list(root.modules()):
        for name, child in parent.named_children():
            if isinstance(child, kinds):
                setattr(parent, name, factory(child).eval())


def copy_sharing_weights(model: nn.Module) -> nn.Module:
    """Copy the structure of a model; the weights are shared."""
    shared = {id(x): x for x in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, dict(shared))


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a linear layer from existing tensors."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def _halves_first(qkv: nn.Linear, heads: int) -> tuple[Tensor, Tensor]:
    width = qkv.weight.shape[0] // 3
    rows = torch.arange(width).view(heads, -1, 2).transpose(1, 2).flatten()
    order = torch.cat((rows, rows + width, torch.arange(2 * width, 3 * width)))
    return qkv.weight.detach()[order], qkv.bias.detach()[order]
