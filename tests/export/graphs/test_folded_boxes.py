"""Boxes of all tokens: their constants, positions and attention biases are those of the float32 decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from export.checkpoint import Original
from export.graphs.attention import copy_sharing_weights, linear_of
from export.graphs.folded.boxes import LARGEST_ODDS, FoldedBias, FoldedPosition, reads_position, start_odds
from export.graphs.query_decoder import BoxBias, BoxPosition, QueryDecoder

ROWS, MISSING = 2, 3


@pytest.fixture(scope="module")
def decoder(original: Original) -> QueryDecoder:
    model: Any = copy_sharing_weights(original.model).eval().requires_grad_(False)
    return QueryDecoder(model)


def moved_boxes(start: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes of all tokens after many moves, of which one limits every coordinate, and those of the queries alone."""
    odds = start_odds(start, MISSING)
    generator = torch.Generator().manual_seed(0)
    for size in (1.0, 30.0, 1.0, 1.0):
        offsets = torch.zeros(ROWS, *odds.shape[1:])
        offsets[..., :4] = size * torch.randn(offsets[..., :4].shape, generator=generator)
        odds = odds.clamp(-LARGEST_ODDS, LARGEST_ODDS) + offsets
    boxes = odds.sigmoid()
    return boxes, boxes[:, 1 : 1 + start.shape[1], :4]


def test_positions_are_read_with_tokens_by_one_product(decoder: QueryDecoder) -> None:
    boxes, of_queries = moved_boxes(decoder.start)
    source: BoxPosition = decoder.places
    layer = linear_of(torch.randn(24, source.second.out_features), torch.randn(24))
    x = torch.randn(*boxes.shape[:2], source.second.out_features)
    place = FoldedPosition(source)(boxes)
    ours = torch.cat((x, place), -1) @ reads_position(layer, source.second).T
    torch.testing.assert_close(ours, layer(x + source(of_queries, MISSING)), atol=1e-4, rtol=1e-4)


def test_biases_by_the_box_differ_by_what_softmax_ignores(decoder: QueryDecoder) -> None:
    boxes, of_queries = moved_boxes(decoder.start)
    source: BoxBias = decoder.bias
    folded = FoldedBias(source, start_odds(decoder.start, MISSING).sigmoid())
    for ours, theirs in (
        (folded(boxes), source(of_queries, MISSING)),
        (folded(None), source(decoder.start, MISSING)),
    ):
        queries = slice(0, 1 + decoder.start.shape[1])  # the padding attends, but nobody reads what it finds
        difference = (ours - theirs)[:, :, queries]
        torch.testing.assert_close(difference, difference[..., :1].expand_as(difference), atol=1e-4, rtol=0)
        assert float(theirs[:, :, 1:].std()) > 0.01


@pytest.mark.parametrize("name", ["tokens", "prompt", "image"])
def test_a_layer_without_bias_reads_positions_too(decoder: QueryDecoder, name: str) -> None:
    layer: Any = decoder.layers[1]
    key = getattr(layer, name).to_key
    assert key.bias is None
    boxes, of_queries = moved_boxes(decoder.start)
    place = FoldedPosition(decoder.places)(boxes)
    x = torch.randn(*boxes.shape[:2], key.in_features)
    ours = torch.cat((x, place), -1) @ reads_position(key, decoder.places.second).T
    torch.testing.assert_close(ours, key(x + decoder.places(of_queries, MISSING)), atol=1e-4, rtol=1e-4)
