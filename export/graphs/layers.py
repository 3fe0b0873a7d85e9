"""Parts that several modules of the grounding share. N rows of an image and a prompt, M prompt tokens, C channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

KEY_MULTIPLE = 4
"""The prompt is padded to a multiple of so many tokens, which memory-efficient attention on a GPU requires."""
IGNORED = -30000.0
"""Bias of a padded key: its weight is exactly 0, and the number is finite in float16."""


class FeedForward(nn.Module):
    """Two linear layers with ReLU between, as `max(x, -b)`, one operator, where the first bias passes into the second.

    `relu(x + b) = max(x, -b) + b`.
    """

    floor: Tensor
    bias: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        assert layer.activation_str == "relu" if hasattr(layer, "activation_str") else layer.activation is F.relu
        self.widen, self.narrow = layer.linear1.weight, layer.linear2.weight
        first = layer.linear1.bias.detach()
        self.register_buffer("floor", -first, persistent=False)
        bias = layer.linear2.bias.detach() + layer.linear2.weight.detach() @ first
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to the same, without the last bias, which is added with the residual stream."""
        return F.linear(torch.maximum(F.linear(x, self.widen), self.floor), self.narrow)


def with_geometry(text: Tensor, text_mask: Tensor, geometry: Tensor) -> tuple[Tensor, Tensor]:
    """Text tokens (N, L, C), then the geometry token (N, 1, C), then padding: (N, M, C) and its padding (N, M)."""
    missing = -(text.shape[1] + 1) % KEY_MULTIPLE
    prompt = F.pad(torch.cat((text, geometry), 1), (0, 0, 0, missing))
    return prompt, F.pad(F.pad(text_mask, (0, 1), value=False), (0, missing), value=True)


def key_bias(padding: Tensor, queries: Tensor) -> Tensor:
    """Padding (N, M), True is left out, to a bias of attention logits for the queries (…, T, C): (N, 1, T, M)."""
    bias = padding.to(queries.dtype) * IGNORED
    return bias[:, None, None].expand(-1, -1, queries.shape[-2], -1)


def fold_prompts(x: Tensor, prompts: int) -> Tensor:
    """Repeat every image for every prompt: (B, …) to (B * P, …)."""
    return x[:, None].expand(-1, prompts, *x.shape[1:]).flatten(0, 1)


def fold_images(x: Tensor, images: int) -> Tensor:
    """Repeat the prompts for every image: (P, …) to (B * P, …)."""
    return x[None].expand(images, *x.shape).flatten(0, 1)


def grid_side(model: Any) -> int:
    """Image tokens along one side of the image."""
    return int(max(block.attn.input_size[0] for block in model.backbone.vision_backbone.trunk.blocks))


def position_tokens(model: Any) -> Tensor:
    """Sine position of every image token, (1, T, C)."""
    encoding, side = model.backbone.vision_backbone.position_encoding, grid_side(model)
    encoded: Tensor = encoding(torch.zeros(1, 1, side, side))
    return encoded.flatten(2).transpose(1, 2).clone()
