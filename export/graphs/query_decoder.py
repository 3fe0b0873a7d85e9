"""The query decoder of the grounding graph.

N rows of an image and a prompt, T image tokens, M prompt tokens, Q queries, C channels, H heads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import Attention
from export.graphs.layers import FeedForward, grid_side, key_bias
from export.graphs.operators import add_and_normalize, unflatten

QUERY_MULTIPLE = 8
"""In float16 the tokens are padded to a multiple of this, which memory-efficient attention with a bias requires."""
SMALLEST_SIDE = 1e-3
"""Of `sam3.model.model_misc.inverse_sigmoid`."""


class QueryDecoder(nn.Module):
    """Object queries, their logits and the presence logit, from the last decoder layer alone.

    The presence token is the first of the Q + 1 tokens. What comes before the first attention to the prompt or the
    image does not depend on them, and has one row.
    """

    tokens: Tensor
    start: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        decoder = model.transformer.decoder
        self.layers = nn.ModuleList(DecoderLayer(layer) for layer in decoder.layers)
        self.norm, self.box_head = decoder.norm, decoder.bbox_embed
        self.presence_norm, self.presence_head = decoder.presence_token_out_norm, decoder.presence_token_head
        self.places, self.bias = BoxPosition(decoder), BoxBias(decoder, grid_side(model))
        self.scoring = model.dot_prod_scoring
        tokens = torch.cat((decoder.presence_token.weight, decoder.query_embed.weight))[None].detach()
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("start", decoder.reference_points.weight.detach().sigmoid()[None], persistent=False)

    def forward(
        self, memory: Tensor, position: Tensor, prompt: Tensor, padding: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode.

        Args:
            memory: (N, T, C).
            position: (1, T, C).
            prompt: float32 (N, M, C).
            padding: (N, M).

        Returns:
            Queries float32 (N, Q, C), logits float32 (N, Q) and presence logits float32 (N, 1).
        """
        narrow, keys = prompt.to(memory.dtype), memory + position
        x, boxes = self.tokens.to(memory.dtype), self.start
        missing = -x.shape[1] % QUERY_MULTIPLE if memory.dtype == torch.float16 else 0
        x = F.pad(x, (0, 0, 0, missing))
        queries = slice(1, x.shape[1] - missing)
        bias, own = key_bias(padding, x), own_bias(x, missing)
        layers: list[Any] = list(self.layers)
        for index, layer in enumerate(layers):
            if index:
                boxes = self._refine(boxes, x[:, queries])
            position = self.places(boxes, missing).to(x.dtype)
            x = layer.attend_self(x, position, own)
            x = x if index else x.expand(memory.shape[0], -1, -1)
            x = layer.attend_prompt(x, position, narrow, bias)
            x = layer.attend_image(x, position, keys, memory, self.bias(boxes, missing).to(x.dtype))
        query = self.norm(x[:, queries].to(torch.float32))
        logit = self.scoring(query[None], prompt.transpose(0, 1), padding)[0, ..., 0]
        presence = self.presence_head(self.presence_norm(x[:, 0].to(torch.float32)))
        return query, logit, presence

    def _refine(self, boxes: Tensor, x: Tensor) -> Tensor:
        """Move boxes (N or 1, Q, 4) by what the queries (N, Q, C) say."""
        odds = boxes.clamp(min=SMALLEST_SIDE) / (1 - boxes).clamp(min=SMALLEST_SIDE)
        refined: Tensor = (self.box_head(self.norm(x.to(torch.float32))) + odds.log()).sigmoid()
        return refined


class BoxPosition(nn.Module):
    """Position of every token, from the sine waves of its box; that of the presence token is zero.

    The waves stand in another order than in the original, and so do the columns of the first weight.
    """

    rates: Tensor

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        first, second = decoder.ref_point_head.layers
        width = first.in_features // 4
        powers = 2 * torch.div(torch.arange(0, width, 2), 2, rounding_mode="floor") / width
        rates = torch.zeros(4, 4, width // 2)
        for axis in range(4):
            rates[axis, axis] = 2 * math.pi / 10000**powers
        self.register_buffer("rates", rates.flatten(1), persistent=False)
        # The original's order: y, x, w, h; in each of them sine and cosine by turns.
        columns = torch.arange(4 * width).view(4, width // 2, 2)[[1, 0, 2, 3]].permute(2, 0, 1).flatten()
        self.first, self.second = nn.Linear(4 * width, first.out_features), second
        self.first.weight = nn.Parameter(first.weight.detach()[:, columns], requires_grad=False)
        self.first.bias = first.bias

    def forward(self, boxes: Tensor, missing: int) -> Tensor:
        """Boxes (N or 1, Q, 4) to float32 (N or 1, Q + 1 + missing, C)."""
        angles = boxes @ self.rates
        waves = torch.cat((angles.sin(), angles.cos()), -1)
        return F.pad(self.second(F.relu(self.first(waves))), (0, 0, 1, missing))


class BoxBias(nn.Module):
    """Attention bias by the position of an image token relative to the edges of a query's box, both axes at once."""

    edges: Tensor
    coordinates: Tensor

    def __init__(self, decoder: Any, side: int) -> None:
        super().__init__()
        self.side = side
        # Distances are in eighths: (cx, cy, w, h) to 8 * (left, right, top, bottom).
        edges = torch.tensor([[8.0, 8, 0, 0], [0, 0, 8, 8], [-4, 4, 0, 0], [0, 0, -4, 4]])
        self.register_buffer("edges", edges, persistent=False)
        coordinates = 8 * (torch.arange(side, dtype=torch.float32) / side)
        self.register_buffer("coordinates", coordinates.view(1, 1, 1, -1, 1), persistent=False)
        axes = (decoder.boxRPB_embed_x.layers, decoder.boxRPB_embed_y.layers)
        # log2(1 + |d|) / 3 is log(1 + |d|) / (3 log 2).
        self.widen = nn.Parameter(_stacked(axes, 0) / (3 * math.log(2)), requires_grad=False)
        self.narrow = nn.Parameter(_stacked(axes, 1), requires_grad=False)
        first, second = (torch.stack([layers[i].bias.detach() for layers in axes]) for i in (0, 1))
        self.floor = nn.Parameter(-first[:, None], requires_grad=False)
        # relu(x + b) = max(x, -b) + b
        total = second + (first[:, None] @ self.narrow)[:, 0]
        self.last = nn.Parameter(total[:, None, :, None, None], requires_grad=False)

    def forward(self, boxes: Tensor, missing: int) -> Tensor:
        """Boxes (N or 1, Q, 4) to (N or 1, H, Q + 1 + missing, T); the bias of the other tokens is zero."""
        rows, queries, _ = boxes.shape
        edges = unflatten(boxes @ self.edges, -1, (2, 1, 2)).permute(2, 0, 1, 3, 4)
        distance = self.coordinates - edges
        scaled = (distance.sign() * torch.log(distance.abs() + 1.0)).to(self.widen.dtype)
        wide = torch.maximum(scaled.flatten(1, 3) @ self.widen, self.floor)
        bias = unflatten(wide @ self.narrow, 1, (rows, queries, self.side)).permute(0, 1, 4, 2, 3) + self.last
        x, y = F.pad(bias, (0, 0, 1, missing)).unbind(0)
        return (y[..., None] + x[..., None, :]).flatten(3)


class DecoderLayer(nn.Module):
    """One layer of the decoder; each part normalizes after it adds."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.tokens, self.prompt = Attention(layer.self_attn), Attention(layer.ca_text)
        self.image = Attention(layer.cross_attn)
        self.norm_tokens, self.norm_prompt, self.norm_image = layer.norm2, layer.catext_norm, layer.norm1
        self.feed_forward, self.norm = FeedForward(layer), layer.norm3

    def attend_self(self, x: Tensor, position: Tensor, bias: Tensor | None) -> Tensor:
        """Attend among the tokens (N or 1, Q + 1, C)."""
        q = x + position
        return add_and_normalize(x, self.tokens(q, q, x, bias), self.tokens.to_output.bias, self.norm_tokens)[1]

    def attend_prompt(self, x: Tensor, position: Tensor, prompt: Tensor, bias: Tensor) -> Tensor:
        """Attend to the prompt."""
        seen = self.prompt(x + position, prompt, prompt, bias)
        return add_and_normalize(x, seen, self.prompt.to_output.bias, self.norm_prompt)[1]

    def attend_image(self, x: Tensor, position: Tensor, keys: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """Attend to the image, then the feed-forward network."""
        seen = self.image(x + position, keys, memory, bias)
        x = add_and_normalize(x, seen, self.image.to_output.bias, self.norm_image)[1]
        return add_and_normalize(x, self.feed_forward(x), self.feed_forward.bias, self.norm)[1]


def own_bias(x: Tensor, missing: int) -> Tensor | None:
    """Bias (1, 1, N, N) that leaves the last tokens of (1, N, C) out of attention among the tokens."""
    if not missing:
        return None
    padding = torch.arange(x.shape[1], device=x.device) >= x.shape[1] - missing
    return key_bias(padding[None], x)


def _stacked(axes: tuple[Any, Any], index: int) -> Tensor:
    """Weights of one layer for both axes, (2, inputs, outputs)."""
    return torch.stack([layers[index].weight.detach().T for layers in axes])
