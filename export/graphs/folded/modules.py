"""The three graphs of an image in half precision, made from those that compute in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from export.graphs.folded.grounding import FoldedGrounding
from export.graphs.folded.image_encoder import FoldedImageEncoder
from export.graphs.folded.mask_head import FoldedMaskHead
from export.graphs.folded.weights import scale_outputs
from export.graphs.half_precision import use_half_precision

if TYPE_CHECKING:
    from torch import nn

    from export.graphs.grounding import Grounding
    from export.graphs.mask_head import MaskHead
    from export.graphs.modules import ImageEncoder


def half_precision_modules(
    encoder: ImageEncoder, grounding: Grounding, mask_head: MaskHead
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Fold and convert; the given modules are taken apart."""
    modules = folded_modules(encoder, grounding, mask_head)
    for module in modules:
        use_half_precision(module.eval())
    return modules


def folded_modules(
    encoder: ImageEncoder, grounding: Grounding, mask_head: MaskHead
) -> tuple[FoldedImageEncoder, FoldedGrounding, FoldedMaskHead]:
    """Fold, still in float32; the given modules are taken apart."""
    memory_bias = grounding.masks.prompt.to_output.bias.detach()
    folded = FoldedImageEncoder(encoder), FoldedGrounding(grounding), FoldedMaskHead(mask_head)
    levels: list[Any] = list(folded[0].levels)
    head = folded[2]
    levels[0][-1] = scale_outputs(levels[0][-1], head.feature_scale.reciprocal(), head.feature_shift)
    levels[1][-1] = scale_outputs(levels[1][-1], torch.ones_like(memory_bias), memory_bias)
    folded[1].embeddings.scale(head.query_scale, head.query_shift)
    return folded
