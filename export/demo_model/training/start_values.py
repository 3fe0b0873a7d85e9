"""Initial values with which a small network learns to find objects within an hour."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

# The grid of boxes covers the floor, below the middle of the picture, and is wider than high.
_GRID_TOP, _GRID_HEIGHT, _ROWS_PER_COLUMN, _BOX_SIZE = 0.25, 0.65, 0.6, (0.2, 0.25)
_QUERY_STD = 0.5
# Hidden units of the attention bias: signed distances to a box's first and last edge; heads add up pairs of them.
_EDGE_UNITS = ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (-1, -1))
_UNITS_OF_HEAD = ((0, 3), (0, 1), (2, 3), (4, 5))
_LOCALITY, _LEFT_OF_RANDOM = 8.0, 0.3


@torch.no_grad()
def set_start_values(model: Any) -> None:
    """Initialise a new model with boxes on a grid and attention near them."""
    decoder = model.transformer.decoder
    decoder.reference_points.weight.copy_(torch.logit(_grid_of_boxes(decoder.num_queries)))
    nn.init.normal_(decoder.query_embed.weight, std=_QUERY_STD)
    for network in (decoder.boxRPB_embed_x, decoder.boxRPB_embed_y):
        _make_local(*network.layers)


def _grid_of_boxes(count: int) -> Tensor:
    """Boxes (count, 4) as centre and size in fractions of the picture."""
    rows = max(1, round(math.sqrt(count * _ROWS_PER_COLUMN)))
    columns = math.ceil(count / rows)
    index = torch.arange(count)
    x = (index % columns + 0.5) / columns
    y = _GRID_TOP + _GRID_HEIGHT * (torch.div(index, columns, rounding_mode="floor") + 0.5) / rows
    return torch.stack([x, y, torch.full_like(x, _BOX_SIZE[0]), torch.full_like(x, _BOX_SIZE[1])], 1)


def _make_local(hidden: nn.Linear, output: nn.Linear) -> None:
    """Make the attention bias decrease with the distance from the edges of a box.

    With random weights the attention is uniform over the picture and boxes hardly move.
    """
    for layer in (hidden, output):
        layer.weight.mul_(_LEFT_OF_RANDOM)
        layer.bias.zero_()
    hidden.weight[: len(_EDGE_UNITS)] = torch.tensor(_EDGE_UNITS, dtype=torch.float32)
    output.weight[:, : len(_EDGE_UNITS)] = 0
    for head in range(output.weight.shape[0]):
        output.weight[head, list(_UNITS_OF_HEAD[head % len(_UNITS_OF_HEAD)])] = -_LOCALITY
