"""Folded weights compute what the float32 graphs compute, and lose no accuracy in float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.checkpoint import Original
from export.graphs.attention import Attention, copy_sharing_weights
from export.graphs.folded.boxes import LARGEST_ODDS
from export.graphs.folded.grounding import TokenAttention
from export.graphs.folded.mask_head import PositivePart
from export.graphs.folded.modules import folded_modules
from export.graphs.folded.weights import (
    Perceptron,
    fold_biases,
    followed_by,
    has_large_scales,
    scale_inputs,
    scale_outputs,
)
from export.graphs.grounding import Grounding
from export.graphs.mask_head import MaskHead
from export.graphs.modules import ImageEncoder
from job.model.artifact import open_artifact
from job.model.prompts import stored_text_features
from job.model.reference import read_reference
from tests.fakes import DEMO_ARTIFACT

CHANNELS = 64


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def random_norm(seed: int) -> nn.LayerNorm:
    torch.manual_seed(seed)
    norm = nn.LayerNorm(CHANNELS).requires_grad_(False)
    nn.init.normal_(norm.weight, mean=1.0, std=0.5)
    nn.init.normal_(norm.bias, std=0.5)
    return norm


def parts(original: Original) -> tuple[ImageEncoder, Grounding, MaskHead]:
    model: Any = copy_sharing_weights(original.model).eval().requires_grad_(False)
    return ImageEncoder(model).eval(), Grounding(model).eval(), MaskHead(model).eval()


def test_folded_graphs_give_the_same_scores_and_masks(original: Original) -> None:
    embedded = open_artifact(DEMO_ARTIFACT)
    stored = [stored_text_features(embedded)[prompt] for prompt in embedded.manifest.prompts]
    text = [torch.from_numpy(np.concatenate([getattr(x, name) for x in stored])) for name in ("features", "mask")]
    pixels = torch.from_numpy(np.asarray(read_reference(embedded.path("reference.npz")).pixels[:2]))
    encoder, grounding, head = parts(original)
    folded_encoder, folded_grounding, folded_head = (x.eval() for x in folded_modules(*parts(original)))
    with torch.no_grad():
        maps, folded_maps = encoder(pixels), folded_encoder(pixels)
        assert relative_error(folded_maps[2], maps[2]) < 1e-5
        scores, *rows = grounding(maps[2], *text)
        folded_scores, *folded_rows = folded_grounding(folded_maps[2], *text)
        assert relative_error(folded_scores, scores) < 1e-5
        every = torch.arange(scores.shape[2])
        for image in range(len(pixels)):
            for prompt in range(scores.shape[1]):
                ours, theirs = (
                    run(*(x[image : image + 1] for x in some_maps[:2]), *(x[image, prompt][None] for x in some), every)
                    for run, some_maps, some in ((head, maps, rows), (folded_head, folded_maps, folded_rows))
                )
                assert relative_error(theirs, ours) < 1e-5


def test_the_weights_of_the_original_stay_as_they_are(original: Original) -> None:
    before = {name: x.clone() for name, x in original.model.state_dict().items() if x.is_floating_point()}
    folded_modules(*parts(original))
    after = original.model.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_layers_take_over_the_bias_of_a_normalisation(has_bias: bool) -> None:
    norm = random_norm(0)
    layers = [nn.Linear(CHANNELS, 48, bias=has_bias).requires_grad_(False) for _ in range(2)]
    plain, folded = fold_biases(norm, layers)
    x = torch.randn(5, CHANNELS)
    for layer, new in zip(layers, folded, strict=True):
        assert new.bias is None
        torch.testing.assert_close(new(plain(x)), layer(norm(x)), atol=1e-5, rtol=1e-5)


def test_folding_loses_no_accuracy_in_half_precision() -> None:
    norm = random_norm(1)
    layer = nn.Linear(CHANNELS, 256).requires_grad_(False)
    plain, (folded,) = fold_biases(norm, [layer])
    x = torch.randn(4096, CHANNELS)
    expected = layer(norm(x))

    def error(some_norm: nn.LayerNorm, some_layer: nn.Linear) -> float:
        half = [y.to(torch.float16).to(torch.float32) for y in (some_layer.weight, some_norm(x))]
        return float((F.linear(half[1], half[0], some_layer.bias) - expected).square().mean().sqrt())

    assert error(plain, folded) < 1.3 * error(norm, layer)


def test_a_perceptron_passes_its_biases_on() -> None:
    torch.manual_seed(2)
    first, second, *ends = [nn.Linear(8, 8).requires_grad_(False) for _ in range(4)]
    first.bias = None  # type: ignore[assignment]
    x = torch.randn(5, 8)
    hidden = torch.relu(second(torch.relu(first(x))))
    for ours, end in zip(Perceptron([first, second], *ends)(x), ends, strict=True):
        torch.testing.assert_close(ours, end(hidden), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scales", [(0.5, 2.0), (-1.0, 1.0), (0.0, 1.0)], ids=["large", "of both signs", "tiny"])
def test_the_positive_part_leaves_its_bias_to_what_comes_next(scales: tuple[float, float]) -> None:
    torch.manual_seed(3)
    norm = nn.GroupNorm(4, 16).requires_grad_(False)
    norm.weight.copy_(torch.linspace(*scales, 16))
    nn.init.normal_(norm.bias)
    part, x = PositivePart(norm), torch.randn(1, 16, 6, 6)
    ours = part(x) * part.scale[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(ours, torch.relu(norm(x)), atol=1e-5, rtol=1e-5)
    assert has_large_scales(norm) is (scales == (0.5, 2.0))
    assert part.is_scaled is not has_large_scales(norm)


def test_convolutions_take_over_scales() -> None:
    torch.manual_seed(4)
    convolution = nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False)
    x, scale, shift = torch.randn(1, 8, 6, 6), torch.rand(8) + 0.5, torch.randn(8)
    each = [y[:, None, None] for y in (scale, shift)]
    torch.testing.assert_close(scale_inputs(convolution, scale)(x), convolution(x * each[0]), atol=1e-5, rtol=1e-5)
    expected = (convolution(x) + each[1]) * each[0]
    torch.testing.assert_close(scale_outputs(convolution, scale, shift)(x), expected, atol=1e-5, rtol=1e-5)


def test_a_transposed_convolution_takes_over_the_one_that_reads_it() -> None:
    torch.manual_seed(5)
    transposed, pointwise = (x.requires_grad_(False) for x in (nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(6, 4, 1)))
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(followed_by(transposed, pointwise)(x), pointwise(transposed(x)), atol=1e-5, rtol=1e-5)


def test_odds_are_limited_where_the_original_limits_coordinates() -> None:
    odds = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    box = odds.sigmoid()
    theirs = (box.clamp(min=1e-3) / (1 - box).clamp(min=1e-3)).log().sigmoid()
    torch.testing.assert_close(odds.clamp(-LARGEST_ODDS, LARGEST_ODDS).sigmoid(), theirs, atol=1.1e-6, rtol=0)


def test_attention_of_one_token_reads_the_image_tokens_themselves() -> None:
    torch.manual_seed(6)
    source = nn.MultiheadAttention(CHANNELS, 4, batch_first=True).requires_grad_(False)
    nn.init.normal_(source.in_proj_bias)
    plain = Attention(source)
    folded = TokenAttention(plain)
    y, tokens = torch.randn(2, 1, CHANNELS), torch.randn(2, 30, CHANNELS)
    keys = tokens + torch.randn(1, 30, CHANNELS)
    torch.testing.assert_close(
        folded.attend(folded.to_query(y), keys, tokens), plain(y, keys, tokens), atol=1e-5, rtol=1e-5
    )
