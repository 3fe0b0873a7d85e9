"""Grounding in half precision: see `export.graphs.grounding`, whose shapes and letters hold here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import linear_of
from export.graphs.folded.query_decoder import FoldedQueryDecoder
from export.graphs.folded.weights import Perceptron, fold_biases
from export.graphs.layers import fold_images, fold_prompts, key_bias, with_geometry
from export.graphs.operators import add_and_normalize, unflatten

if TYPE_CHECKING:
    from export.graphs.attention import Attention
    from export.graphs.grounding import EmptyGeometry, Grounding, MaskEmbeddings, MaskMemory, PromptFusion

Projected = tuple[Tensor, Tensor]
"""Keys and values of the prompt, each (N, M, C)."""


class FoldedGrounding(nn.Module):
    """The coarsest feature map and text to scores, memory, queries and geometry."""

    position: Tensor

    def __init__(self, source: Grounding) -> None:
        super().__init__()
        self.geometry, self.fusion = FoldedGeometry(source.geometry), FoldedFusion(source.fusion)
        self.masks = FoldedMaskMemory(source.masks)
        decoder: Any = source.queries
        readers = (decoder.box_head.layers[0], decoder.scoring.hs_proj, source.embeddings.embed.layers[0])
        norm, (box, scored, embedded) = fold_biases(decoder.norm, readers)
        self.queries = FoldedQueryDecoder(decoder, norm, box, scored)
        self.embeddings = FoldedEmbeddings(source.embeddings, embedded)
        fusion: list[Any] = list(source.fusion.layers)
        self.prompt = PromptProjections([*(x.prompt for x in (*fusion, *decoder.layers)), source.masks.prompt])
        self.register_buffer("position", source.position, persistent=False)

    def forward(self, feature_2: Tensor, text_features: Tensor, text_mask: Tensor) -> tuple[Tensor, ...]:
        """Find every prompt in every image.

        Returns:
            As `export.graphs.grounding.Grounding`, but memory (B, P, C, T).
        """
        images, prompts = feature_2.shape[0], text_features.shape[0]
        tokens = feature_2.flatten(2).transpose(1, 2)
        geometry = self.geometry(tokens, tokens + self.position).to(torch.float32)
        prompt, padding = with_geometry(
            fold_images(text_features, images), fold_images(text_mask, images), fold_prompts(geometry, prompts)
        )
        layers = len(self.fusion.layers)
        projected = self.prompt(prompt.to(tokens.dtype))
        memory = self.fusion(tokens, self.position, projected[:layers], padding)
        query, logit, presence = self.queries(memory, self.position, prompt, padding, projected[layers:-1])
        logit, presence = (unflatten(torch.sigmoid(x), 0, (images, prompts)) for x in (logit, presence))
        seen = self.masks(memory, projected[-1], padding, (images, prompts))
        return logit * presence, seen, *self.embeddings(unflatten(query, 0, (images, prompts)), memory.dtype)


class PromptProjections(nn.Module):
    """Keys and values of the prompt for several attention layers, by one product."""

    def __init__(self, layers: list[Attention]) -> None:
        super().__init__()
        weights = [x.weight.detach() for layer in layers for x in (layer.to_key, layer.to_value)]
        self.project = linear_of(torch.cat(weights), None)
        self.width = len(weights[0])

    def forward(self, prompt: Tensor) -> tuple[Projected, ...]:
        """Prompt (N, M, C) to keys and values by layer."""
        parts = self.project(prompt).split(self.width, -1)
        return tuple(zip(parts[::2], parts[1::2], strict=True))


class FoldedGeometry(nn.Module):
    """The geometry token; the first layer's part before the image is a constant."""

    start: Tensor
    query: Tensor

    def __init__(self, source: EmptyGeometry) -> None:
        super().__init__()
        self.layers = source.layers
        first: Any = source.layers[0]
        start: Any = source.start
        own = first.attend_self.to_output(first.attend_self.to_value(first.norm1(start)))
        start, y = add_and_normalize(start, own, None, first.norm2)
        self.register_buffer("start", start.detach(), persistent=False)
        self.register_buffer("query", first.attend_image.to_query(y).detach(), persistent=False)
        self.own, self.to_query = nn.ModuleList(), nn.ModuleList()
        rest: list[Any] = list(self.layers)[1:]
        for layer in rest:
            output = layer.attend_self.to_output
            self.own.append(linear_of(output.weight.detach() @ layer.attend_self.to_value.weight.detach(), output.bias))
            layer.norm2, (to_query,) = fold_biases(layer.norm2, [layer.attend_image.to_query])
            self.to_query.append(to_query)
        self.norm = source.norm

    def forward(self, tokens: Tensor, keys: Tensor) -> Tensor:
        """Image tokens (B, T, C) and the same with their positions to the geometry token (B, 1, C)."""
        layers: list[Any] = list(self.layers)
        norms = [*(layer.norm1 for layer in layers[1:]), self.norm]
        x, query = self.start, self.query.expand(tokens.shape[0], -1, -1)
        y = x
        for index, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
            if index:
                own: Any = self.own[index - 1]
                x, y = add_and_normalize(x, F.linear(y, own.weight), own.bias, layer.norm2)
                query = self.to_query[index - 1](y)
            image = layer.attend_image
            seen = image.attend(query, image.to_key(keys), image.to_value(tokens))
            # The tensor with a row an image comes first: the other one may have one row.
            x, y = add_and_normalize(seen, x, image.to_output.bias, layer.norm3)
            x, y = add_and_normalize(x, layer.feed_forward(y), layer.feed_forward.bias, norm)
        return y


class FoldedFusion(nn.Module):
    """Fusion of image tokens with the prompt."""

    def __init__(self, source: PromptFusion) -> None:
        super().__init__()
        self.layers = source.layers
        layers: list[Any] = list(self.layers)
        for layer in layers:
            layer.norm2, (layer.prompt.to_query,) = fold_biases(layer.norm2, [layer.prompt.to_query])

    def forward(self, tokens: Tensor, position: Tensor, prompts: tuple[Projected, ...], padding: Tensor) -> Tensor:
        """(B, T, C), positions (1, T, C), keys and values by layer and their padding (N, M) to (N, T, C)."""
        bias = key_bias(padding, tokens)
        layers: list[Any] = list(self.layers)
        x, y = tokens, layers[0].norm1(tokens)
        for index, (layer, (key, value)) in enumerate(zip(layers, prompts, strict=True)):
            after = layers[index + 1].norm1 if index + 1 < len(layers) else None
            x, y = layer.attend_self(x, y, position)
            query = layer.prompt.to_query(y)
            if index == 0:
                x, query = (fold_prompts(z, padding.shape[0] // tokens.shape[0]) for z in (x, query))
            seen = layer.prompt.attend(query, key, value, bias)
            x, y = add_and_normalize(x, seen, layer.prompt.to_output.bias, layer.norm3)
            x, y = layer.feed(x, y, after)
        return x


class FoldedMaskMemory(nn.Module):
    """The memory that the mask head reads, without the bias of the last projection: feature map 1 has it."""

    def __init__(self, source: MaskMemory) -> None:
        super().__init__()
        self.prompt = source.prompt
        self.norm, (self.prompt.to_query,) = fold_biases(source.norm, [source.prompt.to_query])

    def forward(self, memory: Tensor, prompt: Projected, padding: Tensor, rows: tuple[int, int]) -> Tensor:
        """(N, T, C), keys and values of the prompt, its padding (N, M) and N as (B, P) to (B, P, C, T)."""
        seen = self.prompt.attend(self.prompt.to_query(self.norm(memory)), *prompt, key_bias(padding, memory))
        total = unflatten(memory, 0, rows) + unflatten(seen, 0, rows)
        return total.transpose(2, 3)


class FoldedEmbeddings(nn.Module):
    """Queries to what multiplies the pixels, and offsets."""

    def __init__(self, source: MaskEmbeddings, first: nn.Linear) -> None:
        """Fold the layers of `source`, of which the first one became `first`."""
        super().__init__()
        _, second, last = source.embed.layers
        ends = (_after(last, source.weight.detach().T), _after(last, source.bias.detach()[None]))
        self.layers = Perceptron([first, second], *ends)

    def scale(self, scale: Tensor, shift: Tensor) -> None:
        """Multiply pixels `y` where `y * scale + shift` are meant, both (C,)."""
        ends: list[Any] = list(self.layers.ends)
        factors, offset = ends
        offset.weight.data += shift[None] @ factors.weight
        offset.bias.data += factors.bias @ shift
        factors.weight.data *= scale[:, None]
        factors.bias.data *= scale

    def forward(self, queries: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """Queries float32 (…, Q, C) to factors of a type (…, Q, C) and offsets float32 (…, Q)."""
        factors, offsets = self.layers(queries)
        return factors.to(kind), offsets[..., 0]


def _after(layer: nn.Linear, matrix: Tensor) -> nn.Linear:
    """A linear layer followed by a product with a matrix (outputs, C)."""
    return linear_of(matrix @ layer.weight.detach(), matrix @ layer.bias.detach())
