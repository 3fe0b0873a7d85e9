"""The query decoder in half precision: see `export.graphs.query_decoder`, whose shapes and letters hold here.

What does not depend on the input is computed here: the first box bias, the first attention among the tokens and the
first queries of the prompt. R = Q + 1 + padding are all tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import linear_of
from export.graphs.folded.boxes import (
    COLUMNS,
    LARGEST_ODDS,
    FoldedBias,
    FoldedPosition,
    reads_position,
    start_odds,
)
from export.graphs.folded.weights import Perceptron, fold_biases
from export.graphs.operators import add_and_normalize, attend
from export.graphs.query_decoder import QUERY_MULTIPLE, own_bias

if TYPE_CHECKING:
    from export.graphs.query_decoder import DecoderLayer, QueryDecoder


class FoldedQueryDecoder(nn.Module):
    """Object queries, their logits and the presence logit."""

    start: Tensor
    seen: Tensor
    query: Tensor
    place: Tensor
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
        self.norm, self.count = norm, source.start.shape[1]
        self.missing = -source.tokens.shape[1] % QUERY_MULTIPLE
        outer: Any = source.places.second
        layers: list[Any] = list(source.layers)
        self.layers = nn.ModuleList(FoldedDecoderLayer(layer, outer) for layer in layers)
        start = start_odds(source.start, self.missing)
        self.register_buffer("start", start, persistent=False)
        self.places, self.bias = FoldedPosition(source.places), FoldedBias(source.bias, start.sigmoid())
        self.scoring = PromptScoring(source.scoring, of_queries)
        _, second, last = source.box_head.layers
        unmoved = (0, COLUMNS - last.out_features)
        moved = linear_of(F.pad(last.weight.detach(), (0, 0, *unmoved)), F.pad(last.bias.detach(), unmoved))
        self.box_head = Perceptron([first, second], moved)
        presence: Any = source.presence_head.layers
        self.presence_norm, (first,) = fold_biases(source.presence_norm, [presence[0]])
        self.presence_head = Perceptron([first, *presence[1:-1]], presence[-1])
        self._compute_constants(source)

    def _compute_constants(self, source: QueryDecoder) -> None:
        layer: Any = source.layers[0]
        x = F.pad(source.tokens, (0, 0, 0, self.missing))
        own = own_bias(x, self.missing)
        position = source.places(source.start, self.missing)
        x = layer.attend_self(x, position, own)
        place = layer.image.to_query(position)
        constants = {"seen": x, "query": layer.prompt.to_query(x + position), "place": place}
        if own is not None:
            constants["own"] = own
        for name, value in constants.items():
            self.register_buffer(name, value.detach(), persistent=False)

    def forward(
        self,
        memory: Tensor,
        position: Tensor,
        prompt: Tensor,
        ignored: Tensor,
        prompts: tuple[tuple[Tensor, Tensor], ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode.

        Args:
            memory: (N, T, C).
            position: (1, T, C).
            prompt: float32 (N, M, C).
            ignored: Bias of the attention to a prompt's tokens, (N, M).
            prompts: Keys and values of the prompt, by layer.

        Returns:
            Normalised queries float32 (N, Q, C) for `to_embedding`, logits float32 (N, Q) and presence logits (N, 1).
        """
        bias, image = every_query(ignored, self.seen.shape[1]), (memory + position, memory)
        own = self.own if self.missing else None
        first, *rest = list[Any](self.layers)
        x = first.attend_prompt(self.seen, self.query.expand(memory.shape[0], -1, -1), prompts[0], bias)
        x = first.attend_image(x, F.linear(x, first.of_image.token) + self.place, image, self.bias(None))
        odds = self.start
        for layer, projected in zip(rest, prompts[1:], strict=True):
            odds = odds.clamp(-LARGEST_ODDS, LARGEST_ODDS) + self._moved(x)
            boxes = odds.sigmoid()
            place = self.places(boxes).to(x.dtype)
            x = layer.attend_self(x, place, own)
            x = layer.attend_prompt(x, layer.of_prompt(x, place), projected, bias)
            x = layer.attend_image(x, layer.of_image(x, place), image, self.bias(boxes))
        exact = x.to(torch.float32)
        normalized = self.norm(exact[:, 1 : 1 + self.count])
        (presence,) = self.presence_head(self.presence_norm(exact[:, 0]))
        return normalized, self.scoring(normalized, prompt, ignored), presence

    def _moved(self, x: Tensor) -> Tensor:
        """What the tokens (N, R, C) add to the odds of the boxes, (N, R, COLUMNS)."""
        (offsets,) = self.box_head(self.norm(x.to(torch.float32)))
        return offsets  # type: ignore[no-any-return]


class PlacedQuery(nn.Module):
    """A projection of tokens and their positions by one product."""

    def __init__(self, layer: nn.Linear, outer: nn.Linear) -> None:
        super().__init__()
        self.token = layer.weight
        self.both = nn.Parameter(reads_position(layer, outer), requires_grad=False)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """Tokens (N, R, C) and what `FoldedPosition` gives for their boxes to (N, R, C)."""
        return F.linear(torch.cat((x, place), -1), self.both)


class FoldedDecoderLayer(nn.Module):
    """One layer of the decoder; its products add biases and positions."""

    def __init__(self, source: DecoderLayer, outer: nn.Linear) -> None:
        """Fold `source`; `outer` is the second layer of the position."""
        super().__init__()
        self.tokens, self.prompt, self.image = source.tokens, source.prompt, source.image
        self.norm_tokens, self.norm_prompt, self.norm_image = source.norm_tokens, source.norm_prompt, source.norm_image
        self.feed_forward, self.norm = source.feed_forward, source.norm
        placed = [reads_position(layer, outer) for layer in (self.tokens.to_query, self.tokens.to_key)]
        value = self.tokens.to_value.weight.detach()
        unplaced = F.pad(value, (0, placed[0].shape[1] - value.shape[1]))
        self.own = nn.Parameter(torch.cat((*placed, unplaced)), requires_grad=False)
        self.of_prompt = PlacedQuery(self.prompt.to_query, outer)
        self.of_image = PlacedQuery(self.image.to_query, outer)

    def attend_self(self, x: Tensor, place: Tensor, bias: Tensor | None) -> Tensor:
        """Attend among the tokens (N, R, C)."""
        projected: Any = F.linear(torch.cat((x, place), -1), self.own)
        query, key, value = projected.split(x.shape[-1], -1)
        seen = attend(query, key, value, self.tokens.heads, bias)
        output = self.tokens.to_output
        return add_and_normalize(x, F.linear(seen, output.weight), output.bias, self.norm_tokens)[1]

    def attend_prompt(self, x: Tensor, query: Tensor, prompt: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """Attend to the keys and values of the prompt; x (N or 1, R, C)."""
        seen = self.prompt.attend(query, *prompt, bias)
        # The tensor of N rows comes first: the other one has one row in the first layer.
        return add_and_normalize(seen, x, self.prompt.to_output.bias, self.norm_prompt)[1]

    def attend_image(self, x: Tensor, query: Tensor, image: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """Attend to what keys and values are made of, both (N, T, C), then the feed-forward network."""
        seen = self.image.attend(query, self.image.to_key(image[0]), self.image.to_value(image[1]), bias)
        x = add_and_normalize(x, seen, self.image.to_output.bias, self.norm_image)[1]
        return add_and_normalize(x, self.feed_forward(x), self.feed_forward.bias, self.norm)[1]


def every_query(ignored: Tensor, queries: int) -> Tensor:
    """Bias of a prompt's tokens (N, M) to a bias of attention logits for all queries: (N, 1, queries, M)."""
    return ignored[:, None, None].expand(-1, -1, queries, -1)


class PromptScoring(nn.Module):
    """Product of every query with the mean of its prompt's tokens, both projected."""

    def __init__(self, source: Any, of_queries: nn.Linear) -> None:
        super().__init__()
        first, second = source.prompt_mlp.layers
        assert source.prompt_mlp.residual
        self.widen, self.floor = first.weight, nn.Parameter(-first.bias.detach(), requires_grad=False)
        # relu(x + b) = max(x, -b) + b
        self.narrow = linear_of(second.weight, second.bias.detach() + second.weight.detach() @ first.bias.detach())
        projection, matrix = source.prompt_proj, of_queries.weight.detach().T * source.scale
        project = linear_of(matrix @ projection.weight.detach(), matrix @ projection.bias.detach())
        # The mean of a constant channel is the constant.
        self.norm, (self.project,) = fold_biases(source.prompt_mlp.out_norm, [project])
        assert source.clamp_logits
        self.largest = float(source.clamp_max_val)

    def forward(self, queries: Tensor, prompt: Tensor, ignored: Tensor) -> Tensor:
        """Queries float32 (N, Q, C), a prompt float32 (N, M, C) and its bias (N, M) to logits (N, Q)."""
        wide = torch.maximum(F.linear(prompt, self.widen), self.floor)
        tokens = self.norm(prompt + self.narrow(wide))
        weights = torch.softmax(ignored.to(torch.float32), -1)  # equal ones, and 0 of tokens that are left out
        factors = self.project(weights[:, None] @ tokens)
        logits: Tensor = (queries @ factors.transpose(1, 2)).squeeze(-1)
        return logits.clamp(-self.largest, self.largest)
