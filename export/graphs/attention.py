"""Attention layers that every exporter supports, made from the weights of sam3's layers.

sam3 attends through `nn.MultiheadAttention` (averaged weights, a fast path, masks of many kinds) and through a rotary
attention on complex numbers. Neither exports well. The classes here compute the same with fewer operators:

- The bias of the keys adds the same number to all logits of a query, which softmax ignores: it is left out.
- The weights of a query sum to one, so the bias of the values passes into the bias of the output.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.operators import Rotation, attend

if TYPE_CHECKING:
    from collections.abc import Callable


class Attention(nn.Module):
    """Attention with the weights of one `nn.MultiheadAttention`, batch first, without dropout."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        assert source.in_proj_weight is not None
        self.heads = source.num_heads
        query, key, value = source.in_proj_weight.chunk(3)
        query_bias, _, value_bias = source.in_proj_bias.chunk(3)
        self.to_query = linear_of(query, query_bias)
        self.to_key, self.to_value = linear_of(key, None), linear_of(value, None)
        self.to_output = linear_of(source.out_proj.weight, _output_bias(source.out_proj, value_bias))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, N, C).
            key: (B, M, C).
            value: (B, M, C).
            bias: Added to the logits, see `export.graphs.operators.attend`.

        Returns:
            (B, N, C), without the bias of the output, which is added with the residual stream.
        """
        return self.attend(self.to_query(query), self.to_key(key), self.to_value(value), bias)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend with projected tokens; shapes as in `forward`."""
        return F.linear(attend(query, key, value, self.heads, bias), self.to_output.weight)


class PlainAttention(nn.Module):
    """Takes the place of an `nn.MultiheadAttention` inside a layer of sam3."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.inner = Attention(source)
        self.batch_first = source.batch_first

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """Attend.

        Args:
            query: (B, N, C), or (N, B, C) when not batch first; key and value likewise with M tokens.
            key: See `query`.
            value: See `query`.
            attn_mask: Added to the attention logits, (N, M).

        Returns:
            Tokens of the shape of `query`, and None where the original returns weights.
        """
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        bias = None if attn_mask is None else attn_mask[None, None]
        out = self.inner(query, key, value, bias) + self.inner.to_output.bias
        return (out if self.batch_first else out.transpose(0, 1)), None


class RotaryAttention(nn.Module):
    """Attention with the weights of one `sam3.model.vitdet.Attention` with rotary positions.

    The original turns neighbouring pairs of channels. Here the rows of the query and key weights are reordered
    so that the first elements of all pairs come first: the same dot products, and turning is one swap of halves.
    """

    def __init__(self, source: Any, order: Tensor) -> None:
        """Take the weights of `source`; `order` (N,) are the row-major indices of the tokens, in their new order."""
        super().__init__()
        self.heads: int = source.num_heads
        weights, biases = source.qkv.weight.detach().chunk(3), source.qkv.bias.detach().chunk(3)
        rows = torch.arange(len(weights[0])).view(self.heads, -1, 2).transpose(1, 2).flatten()
        self.to_query = linear_of(weights[0][rows], biases[0][rows])
        self.to_key = linear_of(weights[1][rows], biases[1][rows])
        self.to_value = linear_of(weights[2], None)
        self.to_output = linear_of(source.proj.weight, _output_bias(source.proj, biases[2]))
        self.rotation = Rotation(source.freqs_cis.real[order], source.freqs_cis.imag[order])

    def forward(self, x: Tensor) -> Tensor:
        """Attend among N tokens: (B, N, C) to the same, before the output's projection."""
        return attend(self.to_query(x), self.to_key(x), self.to_value(x), self.heads, rotation=self.rotation)


def replace_attention(model: nn.Module) -> None:
    """Replace every `nn.MultiheadAttention` inside `model` with one that can be exported."""
    replace_modules(model, (nn.MultiheadAttention,), PlainAttention)


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


def _output_bias(output: nn.Linear, value_bias: Tensor) -> Tensor:
    return output.bias.detach() + output.weight.detach() @ value_bias.detach()
