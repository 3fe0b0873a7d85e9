"""The query decoder in half precision: see `export.graphs.query_decoder`, whose shapes and letters hold here.

What does not depend on the input is computed here: the first box bias, the first attention among the tokens and the
first queries of the prompt.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import linear_of
from export.graphs.folded.weights import Perceptron, fold_biases
from export.graphs.layers import key_bias
from export.graphs.operators import add_and_normalize, unflatten
from export.graphs.query_decoder import QUERY_MULTIPLE, SMALLEST_SIDE, own_bias

if TYPE_CHECKING:
    from export.graphs.query_decoder import BoxBias, BoxPosition, QueryDecoder

LARGEST_ODDS = math.log((1 - SMALLEST_SIDE) / SMALLEST_SIDE)
"""Logarithm of the odds of a coordinate, beyond which the original takes it back to this, within 1e-3."""


class FoldedQueryDecoder(nn.Module):
    """Object queries, their logits and the presence logit."""

    start: Tensor
    seen: Tensor
    position: Tensor
    query: Tensor
    own: Tensor

    def __init__(self, source: QueryDecoder, norm: nn.LayerNorm, first: nn.Linear, of_queries: nn.Linear) -> None:
        """Fold `source`.

        Args:
            source: Float32.
            norm: Takes the place of its last normalisation, as `fold_biases` gives it.
            first: Takes the place of the first layer of the box head.
            of_queries: Takes the place of the projection of the queries that are scored.
        """
        super().__init__()
        self.layers, self.norm = source.layers, norm
        self.missing = -source.tokens.shape[1] % QUERY_MULTIPLE
        self.places, self.bias = FoldedPosition(source.places), FoldedBias(source.bias, source.start, self.missing)
        self.scoring = PromptScoring(source.scoring, of_queries)
        _, second, last = source.box_head.layers
        self.box_head = Perceptron([first, second], last)
        presence: Any = source.presence_head.layers
        self.presence_norm, (first,) = fold_biases(source.presence_norm, [presence[0]])
        self.presence_head = Perceptron([first, *presence[1:-1]], presence[-1])
        self._compute_constants(source)

    def _compute_constants(self, source: QueryDecoder) -> None:
        layer: Any = self.layers[0]
        x = F.pad(source.tokens, (0, 0, 0, self.missing))
        own = own_bias(x, self.missing)
        position = source.places(source.start, self.missing)
        x = layer.attend_self(x, position, own)
        odds = (source.start / (1 - source.start)).log()
        constants = {"seen": x, "position": position, "query": layer.prompt.to_query(x + position), "start": odds}
        if own is not None:
            constants["own"] = own
        for name, value in constants.items():
            self.register_buffer(name, value.detach(), persistent=False)

    def forward(
        self,
        memory: Tensor,
        position: Tensor,
        prompt: Tensor,
        padding: Tensor,
        prompts: tuple[tuple[Tensor, Tensor], ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode.

        Args:
            memory: (N, T, C).
            position: (1, T, C).
            prompt: float32 (N, M, C).
            padding: (N, M).
            prompts: Keys and values of the prompt, by layer.

        Returns:
            Normalised queries float32 (N, Q, C) for `to_embedding`, logits float32 (N, Q) and presence logits (N, 1).
        """
        keys, bias, odds = memory + position, key_bias(padding, self.seen), self.start
        own = self.own if self.missing else None
        x, queries = self.seen, slice(1, self.seen.shape[1] - self.missing)
        layers: list[Any] = list(self.layers)
        for index, (layer, (key, value)) in enumerate(zip(layers, prompts, strict=True)):
            if index:
                odds = odds.clamp(-LARGEST_ODDS, LARGEST_ODDS) + self._moved(x[:, queries])
                boxes = odds.sigmoid()
                position = self.places(boxes, self.missing, x.dtype)
                x = layer.attend_self(x, position, own)
                query = layer.prompt.to_query(x + position)
            else:
                boxes, position, query = None, self.position, self.query.expand(memory.shape[0], -1, -1)
            seen = layer.prompt.attend(query, key, value, bias)
            # The tensor of N rows comes first: the other one has one row in the first layer.
            _, x = add_and_normalize(seen, x, layer.prompt.to_output.bias, layer.norm_prompt)
            x = layer.attend_image(x, position, keys, memory, self.bias(boxes, self.missing))
        normalized = self.norm(x[:, queries].to(torch.float32))
        (presence,) = self.presence_head(self.presence_norm(x[:, 0].to(torch.float32)))
        return normalized, self.scoring(normalized, prompt, padding), presence

    def _moved(self, x: Tensor) -> Tensor:
        """What the queries (N, Q, C) add to the odds of the boxes, (N, Q, 4)."""
        (offsets,) = self.box_head(self.norm(x.to(torch.float32)))
        return offsets  # type: ignore[no-any-return]


class FoldedPosition(nn.Module):
    """Position of every token from the sine waves of its box; a cosine is a sine a quarter of a wave later."""

    rates: Tensor
    phases: Tensor

    def __init__(self, source: BoxPosition) -> None:
        super().__init__()
        waves = source.rates.shape[1]
        self.register_buffer("rates", source.rates.repeat(1, 2), persistent=False)
        phases = torch.arange(2 * waves) // waves * (math.pi / 2)
        self.register_buffer("phases", phases, persistent=False)
        self.inner, self.outer = linear_of(source.first.weight, None), linear_of(source.second.weight, None)
        self.floor = nn.Parameter(-source.first.bias.detach(), requires_grad=False)
        bias = source.second.bias.detach() + source.second.weight.detach() @ source.first.bias.detach()
        self.last = nn.Parameter(bias, requires_grad=False)

    def forward(self, boxes: Tensor, missing: int, kind: torch.dtype) -> Tensor:
        """Boxes (N, Q, 4) to (N, Q + 1 + missing, C) of a type; that of the other tokens is zero."""
        waves = (boxes @ self.rates + self.phases).sin()
        position = self.outer(torch.maximum(self.inner(waves), self.floor)) + self.last
        return F.pad(position, (0, 0, 1, missing)).to(kind)


class FoldedBias(nn.Module):
    """Attention bias by the position of an image token relative to the edges of a query's box.

    `sign(d) log(1 + |d|) = log(max(1 + d, 1)) - log(max(1 - d, 1))`: the layer after it takes both parts. Its last
    bias is the same for all image tokens, which softmax ignores.
    """

    edges: Tensor
    coordinates: Tensor
    first_axes: Tensor

    def __init__(self, source: BoxBias, start: Tensor, missing: int) -> None:
        """Fold `source`; `start` (1, Q, 4) are the boxes of the first layer."""
        super().__init__()
        self.side = source.side
        # (cx, cy, w, h) to 1 + d and 1 - d without the coordinate d = c - edge, for both axes and both edges.
        edges = unflatten(source.edges, 1, (2, 2))  # box, axis, edge
        self.register_buffer("edges", torch.cat((-edges, edges), -1).flatten(1), persistent=False)
        along = source.coordinates.flatten()[:, None]
        self.register_buffer("coordinates", 1 + torch.cat((along, along, -along, -along), -1), persistent=False)
        self.widen = nn.Parameter(torch.cat((source.widen, -source.widen), 1).detach(), requires_grad=False)
        self.narrow, self.floor = source.narrow, source.floor
        with torch.no_grad():
            self.register_buffer("first_axes", self._axes(start, missing), persistent=False)

    def forward(self, boxes: Tensor | None, missing: int) -> Tensor:
        """Boxes (N, Q, 4), None for those of the first layer, to (N or 1, H, Q + 1 + missing, T)."""
        axes = self.first_axes if boxes is None else self._axes(boxes, missing)
        x, y = axes.unbind(0)
        return (y[..., None] + x[..., None, :]).flatten(3)

    def _axes(self, boxes: Tensor, missing: int) -> Tensor:
        """Boxes (N, Q, 4) to the bias along both axes, (2, N, H, Q + 1 + missing, side)."""
        rows, queries, _ = boxes.shape
        edges = unflatten(boxes @ self.edges, -1, (2, 1, 4)).permute(2, 0, 1, 3, 4)
        distance = (self.coordinates + edges).clamp(min=1).log().to(self.widen.dtype)
        wide = torch.maximum(distance.flatten(1, 3) @ self.widen, self.floor)
        bias = unflatten(wide @ self.narrow, 1, (rows, queries, self.side)).permute(0, 1, 4, 2, 3)
        return F.pad(bias, (0, 0, 1, missing))


class PromptScoring(nn.Module):
    """Product of every query with the mean of its prompt's tokens, both projected."""

    def __init__(self, source: Any, of_queries: nn.Linear) -> None:
        super().__init__()
        self.prompt = source.prompt_mlp
        projection, matrix = source.prompt_proj, of_queries.weight.detach().T * source.scale
        self.project = linear_of(matrix @ projection.weight.detach(), matrix @ projection.bias.detach())
        assert source.clamp_logits
        self.largest = float(source.clamp_max_val)

    def forward(self, queries: Tensor, prompt: Tensor, padding: Tensor) -> Tensor:
        """Queries float32 (N, Q, C), a prompt float32 (N, M, C) and its padding (N, M) to logits (N, Q)."""
        valid = (~padding).to(torch.float32)
        weights = valid / valid.sum(1, keepdim=True)  # the geometry token is always valid
        factors = self.project((weights[:, None] @ self.prompt(prompt))[:, 0])
        logits: Tensor = (queries @ factors[:, :, None])[..., 0]
        return logits.clamp(-self.largest, self.largest)
