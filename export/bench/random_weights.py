"""Sam3's image model at full size with random weights: what speed and memory depend on, without a checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from export.checkpoint import Original, build_official
from export.sam3_runtime import quiet, require_sam3

RANDOM_SHA256 = "0" * 64
"""In the place of a checkpoint's digest."""


def random_original(seed: int = 0) -> Original:
    """Build the model; 840 million parameters, 3.4 GB.

    Two text parameters of sam3 are uninitialized memory, and some weights are zero, which would hide errors.
    """
    torch.manual_seed(seed)
    with quiet():
        model = build_official().eval().requires_grad_(False)
    text = model.backbone.language_backbone.encoder
    for uninitialized in (text.positional_embedding, text.text_projection):
        nn.init.normal_(uninitialized, std=0.01)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return Original(model, require_sam3(), RANDOM_SHA256, "SAM3", "SAM License")
