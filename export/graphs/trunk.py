"""The vision transformer with its tokens in window order from the first block to the last.

Most blocks attend inside windows, a few among all tokens. Attention among all tokens does not depend on their order, so
the order by windows is kept throughout: one transposition at each end instead of two in each block.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import RotaryAttention
from export.graphs.operators import add_and_normalize, bias_gelu, unflatten


class Trunk(nn.Module):
    """Normalized pixels (B, 3, S, S) to features (B, C, H, W)."""

    position: Tensor

    def __init__(self, vit: Any) -> None:
        super().__init__()
        from sam3.model.vitdet import get_abs_pos

        self.side = int(max(block.attn.input_size[0] for block in vit.blocks))
        self.window = int(max(block.window_size for block in vit.blocks)) or self.side
        assert self.side % self.window == 0, "windows would attend to padding"
        assert not vit.retain_cls_token
        assert vit.full_attn_ids[-1] == len(vit.blocks) - 1, "the features are the output of the last block"
        self.patches = vit.patch_embed.proj
        order = window_order(self.side, self.window)
        position = get_abs_pos(
            vit.pos_embed.detach(), vit.pretrain_use_cls_token, (self.side, self.side), tiling=vit.tile_abs_pos
        )
        self.register_buffer("position", position.flatten(1, 2)[:, order].contiguous(), persistent=False)
        self.norm_before, self.norm_after = vit.ln_pre, vit.ln_post
        self.blocks = nn.ModuleList(TrunkBlock(block, order) for block in vit.blocks)

    def forward(self, image: Tensor) -> Tensor:
        """Encode."""
        windows, size = self.side // self.window, self.window
        x = unflatten(unflatten(self.patches(image), -1, (windows, size)), 2, (windows, size))
        return self.encode(x.permute(0, 2, 4, 3, 5, 1).flatten(1, 4))

    def encode(self, patches: Tensor) -> Tensor:
        """Encode embedded patches (B, T, C) in window order, without their positions."""
        windows, size = self.side // self.window, self.window
        _, x = add_and_normalize(patches, self.position, None, self.norm_before)
        first: Any = self.blocks[0]
        y = first.norm1(x)
        for index, block in enumerate(self.blocks):
            after: Any = self.blocks[index + 1] if index + 1 < len(self.blocks) else None
            x, y = block(x, y, after.norm1 if after is not None else None)
        x = unflatten(self.norm_after(x), 1, (windows, windows, size, size))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class TrunkBlock(nn.Module):
    """One block: attention and a feed-forward network on (B, T, C) in window order."""

    def __init__(self, block: Any, order: Tensor) -> None:
        super().__init__()
        assert not hasattr(block.ls1, "gamma"), "layer scale is not supported"
        self.window_tokens = int(block.window_size) ** 2 or len(order)
        inside = order if block.window_size == 0 else torch.arange(self.window_tokens)
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attention = RotaryAttention(block.attn, inside)
        self.widen, self.narrow = block.mlp.fc1, block.mlp.fc2

    def forward(self, x: Tensor, y: Tensor, norm: nn.LayerNorm | None) -> tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            x: The residual stream, (B, T, C).
            y: Its normalisation.
            norm: The normalisation that follows the block, None after the last.

        Returns:
            The residual stream after the block, and its normalisation by `norm`.
        """
        output = self.attention.to_output
        windows = x.shape[1] // self.window_tokens
        seen = self.attention(unflatten(y, 1, (windows, self.window_tokens)).flatten(0, 1))
        seen = unflatten(seen, 0, (-1, windows)).flatten(1, 2)
        x, y = add_and_normalize(x, F.linear(seen, output.weight), output.bias, self.norm2)
        wide = bias_gelu(F.linear(y, self.widen.weight), self.widen.bias)
        if norm is None:
            x = x + self.narrow(wide)
            return x, x
        return add_and_normalize(x, F.linear(wide, self.narrow.weight), self.narrow.bias, norm)


def window_order(side: int, window: int) -> Tensor:
    """Row-major indices of the tokens of a grid, window by window: (side * side,)."""
    grid = torch.arange(side * side).view(side // window, window, side // window, window)
    return grid.transpose(1, 2).flatten()
