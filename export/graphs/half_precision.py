"""Half precision where it costs little accuracy: the arithmetic of the large layers.

Matrix products and convolutions take float16; normalisation, softmax, the residual stream and everything that
makes a score or a box stay float32. Parity on real pictures decides whether that is enough, not this list.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from export.graphs.attention import replace_modules

_PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class Typed(nn.Module):
    """A layer that casts its inputs to one type and its output to another."""

    def __init__(self, layer: nn.Module, computes: torch.dtype, answers: torch.dtype) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer).to(computes)
        self.computes = computes
        self.answers = answers

    def forward(self, x: Tensor) -> Tensor:
        """Cast, compute, cast."""
        y: Tensor = self.layer(x.to(self.computes))
        return y.to(self.answers)


def use_half_precision(model: Any) -> None:
    """Make the large parts of an exportable copy of a `Sam3Image` compute in float16."""
    for part in (
        model.backbone.vision_backbone,
        model.geometry_encoder,
        model.transformer.encoder,
        model.transformer.decoder.layers,
        model.segmentation_head,
    ):
        replace_modules(part, _PRODUCTS, lambda x: Typed(x, torch.float16, torch.float16))
        replace_modules(part, (nn.LayerNorm,), lambda x: Typed(x, torch.float32, torch.float32))
        replace_modules(part, (nn.GroupNorm,), lambda x: Typed(x, torch.float32, torch.float16))
