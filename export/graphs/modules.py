"""The encoders of an artifact as modules, for images and for text; grounding and mask head have modules of their own.

The graphs run the parts of sam3's `Sam3Image` that its `Sam3Processor` uses for a text prompt, and nothing else: no
boxes, no semantic segmentation, no mask of an intermediate layer. B images, P prompts, L text tokens, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import copy_sharing_weights, replace_attention
from export.graphs.trunk import Trunk

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


class ImageEncoder(nn.Module):
    """Pixels uint8 (B, S, S, 3) to the three feature maps that grounding reads, finest first."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        neck = model.backbone.vision_backbone
        self.trunk = Trunk(neck.trunk)
        # The neck builds a coarser level that the backbone drops.
        self.levels = nn.ModuleList(neck.convs[: len(neck.convs) - model.backbone.scalp])
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalize and encode."""
        image = pixels.permute(0, 3, 1, 2).to(torch.float32) * (1 / 255)
        normalized = ((image - self.mean) / self.std).to(self.trunk.patches.weight.dtype)
        tokens = self.trunk(normalized)
        return tuple(level(tokens) for level in self.levels)


class TextEncoder(nn.Module):
    """Token ids int64 (P, L) to text features (P, L, C) and padding mask (P, L).

    The projection that the original computes and discards is left out.
    """

    position: Tensor
    causal: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        language: Any = copy_sharing_weights(model.backbone.language_backbone)
        replace_attention(language)
        encoder, length = language.encoder, language.context_length
        self.embedding = compact_embedding(encoder.token_embedding)
        self.transformer = encoder.transformer
        self.norm = encoder.ln_final
        self.resizer = language.resizer
        self.register_buffer("position", encoder.positional_embedding.detach()[:length], persistent=False)
        self.register_buffer("causal", encoder.attn_mask[:length, :length], persistent=False)

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        x = self.transformer(self.embedding(token_ids) + self.position, attn_mask=self.causal)
        return self.resizer(self.norm(x)).to(torch.float32), token_ids == 0


class RemappedEmbedding(nn.Module):
    """An embedding that stores equal rows once."""

    rows: Tensor
    row_of_token: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, row_of_token = torch.unique(weight.detach(), dim=0, return_inverse=True)
        small = torch.uint8 if len(rows) <= 256 else torch.int32
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("row_of_token", row_of_token.to(small), persistent=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Look up: any shape to that shape and C."""
        return F.embedding(self.row_of_token[token_ids].long(), self.rows)


def compact_embedding(source: nn.Embedding) -> nn.Module:
    """The embedding itself, or one without repeated rows where most rows repeat."""
    remapped = RemappedEmbedding(source.weight)
    return remapped if len(remapped.rows) * 2 < len(source.weight) else source
