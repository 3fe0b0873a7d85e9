"""The image encoder in half precision: pixels to patches by one product, biases inside of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from export.graphs.folded.weights import fold_biases, followed_by
from export.graphs.operators import centered, unflatten

if TYPE_CHECKING:
    from export.graphs.modules import ImageEncoder

LARGEST_PIXEL = 255


class FoldedImageEncoder(nn.Module):
    """Pixels uint8 (B, S, S, 3) to the three feature maps that grounding and mask head read, finest first."""

    def __init__(self, source: ImageEncoder) -> None:
        super().__init__()
        self.trunk, self.levels = source.trunk, nn.ModuleList(_level(level) for level in source.levels)
        self.patches = Patches(source)
        self.trunk.position = self.trunk.position + self.patches.rest
        for block in self.trunk.blocks:
            _fold_block(block)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalize and encode."""
        tokens = self.trunk.encode(self.patches(pixels))
        return tuple(level(tokens) for level in self.levels)


def _level(source: Any) -> nn.Sequential:
    """A level of the neck with its layers of the kernel 1 inside of the transposed convolutions before them."""
    layers: list[nn.Module] = []
    for layer in source:
        before = layers[-1] if layers else None
        is_pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
        if is_pointwise and isinstance(before, nn.ConvTranspose2d):
            layers[-1] = followed_by(before, layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def _fold_block(block: Any) -> None:
    attention = block.attention
    layers = (attention.to_query, attention.to_key, attention.to_value)
    block.norm1, folded = fold_biases(block.norm1, layers)
    attention.to_query, attention.to_key, attention.to_value = folded


class Patches(nn.Module):
    """Pixels uint8 (B, S, S, 3) to patches (B, T, C) in window order.

    Bytes are reordered, which are an eighth of what the embedded patches take. A pixel minus a whole number in the
    middle of its range is exact in float16, and one operator. The scale of the pixels is part of the weights. The
    result lacks `rest`, which is the same for every patch and part of the positions.
    """

    middle: int
    rest: Tensor

    def __init__(self, source: ImageEncoder) -> None:
        super().__init__()
        trunk = source.trunk
        embedding: Any = trunk.patches
        self.windows, self.window, (self.patch, _) = trunk.side // trunk.window, trunk.window, embedding.kernel_size
        assert embedding.bias is None
        assert embedding.stride == embedding.kernel_size
        weight = embedding.weight.detach() / (source.std * LARGEST_PIXEL)
        self.weight = nn.Parameter(weight.permute(0, 2, 3, 1).flatten(1).T.contiguous(), requires_grad=False)
        middle = source.mean.flatten() * LARGEST_PIXEL
        self.middle = round(float(middle.mean()))
        # Not state: no operator of this graph reads it.
        self.rest = (self.middle - middle).repeat(self.patch**2) @ self.weight.detach()

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed."""
        rows = (self.windows, self.window, self.patch)
        columns = (self.windows, self.window, self.patch * 3)
        x = unflatten(unflatten(pixels.flatten(2), 2, columns), 1, rows)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(1, 4)
        return centered(x, self.middle, self.weight.dtype) @ self.weight
