"""What the folded query decoder derives from the boxes of its tokens: their positions and attention biases.

All tokens have a box, also the presence token and the padding, whose boxes mean nothing. So no operator cuts tokens out
or pads them. A box (…, COLUMNS) holds (cx, cy, w, h), a constant, a flag of the tokens that are no queries, and zeros.
The constant and the flag are coordinates that no layer moves; weights that read them hold the biases.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import linear_of
from export.graphs.folded.weights import ALIGNMENT
from export.graphs.operators import unflatten
from export.graphs.query_decoder import SMALLEST_SIDE

if TYPE_CHECKING:
    from export.graphs.query_decoder import BoxBias, BoxPosition

COLUMNS = ALIGNMENT
LARGEST_ODDS = math.log((1 - SMALLEST_SIDE) / SMALLEST_SIDE)
"""Logarithm of the odds of a coordinate, beyond which the original takes it back to this, within 1e-3."""
_HIGH, _LOW = 1 - SMALLEST_SIDE, SMALLEST_SIDE
"""Coordinates with odds of `LARGEST_ODDS` and its negative."""
_FAR = 32.0
"""In eighths of the image: farther than any image token from any edge of a box."""


def start_odds(start: Tensor, missing: int) -> Tensor:
    """First boxes (1, Q, 4) of the queries to logarithms of the odds (1, Q + 1 + missing, COLUMNS) of all tokens."""
    queries = slice(1, 1 + start.shape[1])
    odds = torch.zeros(1, 1 + start.shape[1] + missing, COLUMNS)
    odds[:, :, 4:6] = LARGEST_ODDS
    odds[:, queries, 5] = -LARGEST_ODDS
    odds[:, queries, :4] = (start / (1 - start)).log()
    return odds


def _constant() -> Tensor:
    """Factors (COLUMNS,) of a box whose sum is 1."""
    factors = torch.zeros(COLUMNS)
    factors[4] = 1 / _HIGH
    return factors


def _flag() -> Tensor:
    """Factors (COLUMNS,) of a box whose sum is 0 for queries and 1 for other tokens."""
    factors = torch.zeros(COLUMNS)
    factors[4], factors[5] = -_LOW / (_HIGH * (_HIGH - _LOW)), 1 / (_HIGH - _LOW)
    return factors


class FoldedPosition(nn.Module):
    """The hidden layer of every token's position, and two constants for the biases of what reads it.

    Its second layer is part of the weights of `reads_position`. A cosine is a sine a quarter of a wave later.
    """

    rates: Tensor

    def __init__(self, source: BoxPosition) -> None:
        super().__init__()
        waves, hidden = source.rates.shape[1], source.first.out_features
        rates = torch.zeros(COLUMNS, 2 * waves + ALIGNMENT)
        rates[:4, : 2 * waves] = source.rates.repeat(1, 2)
        rates[:, waves : 2 * waves + 1] += _constant()[:, None] * (math.pi / 2)
        rates[:, 2 * waves + 1] = _flag() * (math.pi / 2)
        self.register_buffer("rates", rates, persistent=False)
        inner, bias = source.first.weight.detach(), source.first.bias.detach()
        weight = torch.zeros(hidden + ALIGNMENT, 2 * waves + ALIGNMENT)
        weight[:hidden, : 2 * waves], weight[:hidden, 2 * waves] = inner, bias
        # Tokens that are no queries stay below zero: a wave is at most 1.
        weight[:hidden, 2 * waves + 1] = -(inner.abs().sum(1) + bias.abs() + 1)
        weight[hidden : hidden + 2, 2 * waves] = 1
        weight[hidden + 1, 2 * waves + 1] = -1
        self.inner = linear_of(weight, None)

    def forward(self, boxes: Tensor) -> Tensor:
        """Boxes (N, R, COLUMNS) to (N, R, hidden + ALIGNMENT).

        The first number after the hidden layer is 1, the second one 1 for queries and 0 for other tokens.
        """
        return F.relu(self.inner((boxes @ self.rates).sin()))


def reads_position(layer: nn.Linear, outer: nn.Linear) -> Tensor:
    """Weights (outputs, C + hidden + ALIGNMENT) that read a token and what `FoldedPosition` gives for it.

    Args:
        layer: Reads the sum of the token and its position.
        outer: Second layer of the position.
    """
    weight = layer.weight.detach()
    columns = torch.zeros(len(weight), outer.in_features + ALIGNMENT)
    columns[:, : outer.in_features] = weight @ outer.weight.detach()
    if layer.bias is not None:
        columns[:, outer.in_features] = layer.bias.detach()
    columns[:, outer.in_features + 1] = weight @ outer.bias.detach()
    return torch.cat((weight, columns), 1)


class FoldedBias(nn.Module):
    """Attention bias by the position of an image token relative to the edges of a query's box.

    `sign(d) log(1 + |d|) = log(max(1 + d, 1)) - log(max(1 - d, 1))`: the layer after it takes both parts. Its last
    bias is the same for all image tokens, which softmax ignores. Both axes are one matrix.
    """

    distance: Tensor
    first_axes: Tensor

    def __init__(self, source: BoxBias, start: Tensor) -> None:
        """Fold `source`; `start` (1, R, COLUMNS) are the boxes of the first layer."""
        super().__init__()
        self.side, self.heads = source.side, source.narrow.shape[2]
        # 1 + d and 1 - d with d = c - edge, for both axes and both edges.
        edges = unflatten(source.edges, 1, (2, 2))  # box, axis, edge
        distance = torch.zeros(COLUMNS, self.side, 2, 4)
        distance[:4] = torch.cat((-edges, edges), -1)[:, None]
        along = source.coordinates.flatten()[:, None, None]
        distance += _constant()[:, None, None, None] * (1 + torch.cat((along, along, -along, -along), -1))
        distance -= _flag()[:, None, None, None] * _FAR
        self.register_buffer("distance", distance.flatten(1), persistent=False)
        widen = torch.cat((source.widen, -source.widen), 1).detach()
        self.widen, self.narrow = _both_axes(widen), _both_axes(source.narrow.detach())
        self.floor = nn.Parameter(source.floor.detach().flatten(), requires_grad=False)
        with torch.no_grad():
            self.register_buffer("first_axes", self._axes(start), persistent=False)

    def forward(self, boxes: Tensor | None) -> Tensor:
        """Boxes (N, R, COLUMNS), None for those of the first layer, to (N or 1, H, R, T)."""
        axes: Any = self.first_axes if boxes is None else self._axes(boxes)
        # Views: ONNX Runtime would otherwise move the transposition behind the split, and transpose twice.
        x, y = (unflatten(part.squeeze(0), 2, (-1, self.side)) for part in axes.flatten(3).split(1))
        return (y[..., None] + x[..., None, :]).flatten(3)

    def _axes(self, boxes: Tensor) -> Tensor:
        """Boxes (N, R, COLUMNS) to the bias along both axes, (2, N, H, R, side)."""
        distance = unflatten(boxes @ self.distance, -1, (self.side, -1))
        scaled = distance.clamp(min=1).log().to(self.widen.dtype)
        wide = torch.maximum(scaled @ self.widen, self.floor)
        return unflatten(wide @ self.narrow, -1, (2, self.heads)).permute(3, 0, 4, 1, 2)


def _both_axes(weights: Tensor) -> nn.Parameter:
    """Matrices of both axes (2, inputs, outputs) as one of twice the sides."""
    matrix: Tensor = torch.block_diag(*weights)  # type: ignore[no-untyped-call]
    return nn.Parameter(matrix, requires_grad=False)
