"""The mask head in half precision: see `export.graphs.mask_head`, whose shapes and letters hold here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from export.graphs.folded.weights import has_large_scales, scale_inputs
from export.graphs.operators import add_upsampled, normalize_groups, unflatten

if TYPE_CHECKING:
    from export.graphs.mask_head import MaskHead


class FoldedMaskHead(nn.Module):
    """Features, memory and queries of one row to the mask logits float32 (K, h, w) of its selected queries.

    The biases of both normalisations, and their scales where all are large, have passed into what comes next: into the
    finest feature map (`feature_scale`, `feature_shift`), and into the queries (`query_scale`, `query_shift`).
    """

    def __init__(self, source: MaskHead) -> None:
        super().__init__()
        convolutions: list[Any] = list(source.convolutions)[:2]
        norms: list[Any] = list(source.norms)[:2]
        positive = [PositivePart(norm) for norm in norms]
        scales = [part.scale for part in positive]
        self.norms = nn.ModuleList(positive)
        self.convolutions = nn.ModuleList((convolutions[0], scale_inputs(convolutions[1], scales[0])))
        self.mode = source.mode
        # Not state: no operator of this graph reads them.
        self.feature_scale: Tensor = scales[0]
        self.feature_shift: Tensor = norms[0].bias.detach()
        self.query_scale: Tensor = scales[1]
        self.query_shift: Tensor = norms[1].bias.detach()

    def forward(
        self, feature_0: Tensor, feature_1: Tensor, memory: Tensor, queries: Tensor, offsets: Tensor, selected: Tensor
    ) -> Tensor:
        """Decode pixels, and multiply them with the queries.

        Args:
            feature_0: The finest feature map, `(y + feature_shift) / feature_scale` of the original's y, (1, C, h, w).
            feature_1: The next one, (1, C, h / 2, w / 2).
            memory: (1, C, T), T tokens of the coarsest feature map.
            queries: (1, Q, C).
            offsets: float32 (1, Q).
            selected: int64 (K,), numbers of queries.
        """
        side = int(memory.shape[2] ** 0.5)
        x = unflatten(memory, -1, (side, side))
        for feature, convolution, norm in zip((feature_1, feature_0), self.convolutions, self.norms, strict=True):
            x = norm(convolution(add_upsampled(feature, x, self.mode)))
        # All queries, so that the product has one shape.
        logits = (queries @ x.flatten(2)).reshape(-1, *feature_0.shape[-2:])
        chosen = logits.index_select(0, selected).to(torch.float32)
        return chosen + offsets.reshape(-1, 1, 1).index_select(0, selected)


class PositivePart(nn.Module):
    """Normalisation by groups and ReLU, as y of `y * scale + bias`, where the bias is that of the normalisation.

    `relu(n * g + b) = g * max(n, -b / g) + b` for g > 0.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        scale, bias = norm.weight.detach(), norm.bias.detach()
        self.groups, self.eps, self.is_scaled = norm.num_groups, norm.eps, not has_large_scales(norm)
        self.scale = torch.ones_like(scale) if self.is_scaled else scale
        self.floor = nn.Parameter((-bias / self.scale)[:, None, None], requires_grad=False)
        self.factor = nn.Parameter(scale[:, None, None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(1, C, h, w) to the same."""
        normalized = normalize_groups(x, self.groups, self.eps)
        return torch.maximum(normalized * self.factor if self.is_scaled else normalized, self.floor)
