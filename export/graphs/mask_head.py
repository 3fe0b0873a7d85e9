"""The mask head: the masks of the selected queries of one image and one prompt.

It runs once for each row that has a selected query, always with the same shapes, so that neither the other images of a
batch nor the other prompts change its result.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.operators import add_upsampled, unflatten


class MaskHead(nn.Module):
    """Features, memory and queries of one row to the mask logits float32 (K, h, w) of its selected queries."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        decoder = model.segmentation_head.pixel_decoder
        assert not decoder.shared_conv
        self.convolutions, self.norms = decoder.conv_layers, decoder.norms
        self.mode: str = decoder.interpolation_mode

    def forward(
        self, feature_0: Tensor, feature_1: Tensor, memory: Tensor, queries: Tensor, offsets: Tensor, selected: Tensor
    ) -> Tensor:
        """Decode pixels, and multiply them with the queries.

        Args:
            feature_0: The finest feature map, (1, C, h, w).
            feature_1: The next one, (1, C, h / 2, w / 2).
            memory: (1, T, C), T tokens of the coarsest feature map.
            queries: (1, Q, C).
            offsets: float32 (1, Q).
            selected: int64 (K,), numbers of queries.
        """
        side = int(memory.shape[1] ** 0.5)
        x = unflatten(memory.transpose(1, 2), -1, (side, side))
        for feature, convolution, norm in zip((feature_1, feature_0), self.convolutions, self.norms, strict=False):
            x = F.relu(norm(convolution(add_upsampled(feature, x, self.mode))))
        # All queries, so that the product has one shape.
        logits = (queries @ x.flatten(2)).reshape(-1, *feature_0.shape[-2:])
        chosen = logits.index_select(0, selected).to(torch.float32)
        return chosen + offsets.reshape(-1, 1, 1).index_select(0, selected)
