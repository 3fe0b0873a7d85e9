"""Grounding in half precision: see `export.graphs.grounding`, whose shapes and letters hold here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import linear_of
from export.graphs.folded.query_decoder import FoldedQueryDecoder, every_query
from export.graphs.folded.weights import Perceptron, fold_biases
from export.graphs.layers import IGNORED, KEY_MULTIPLE, fold_images, fold_prompts
from export.graphs.operators import add_and_normalize, attend, unflatten

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
        prompt = _with_geometry(text_features, geometry)
        ignored = fold_images(_ignored(text_mask, tokens.dtype), images)
        layers = len(self.fusion.layers)
        projected = self.prompt(prompt.to(tokens.dtype))
        memory, normalized = self.fusion((tokens, self.position), projected[:layers], ignored, self.masks.norm)
        query, logit, presence = self.queries(memory, self.position, prompt, ignored, projected[layers:-1])
        logit, presence = (unflatten(torch.sigmoid(x), 0, (images, prompts)) for x in (logit, presence))
        seen = self.masks(memory, normalized, projected[-1], ignored)
        rows = unflatten(seen, 0, (images, prompts))
        return logit * presence, rows, *self.embeddings(unflatten(query, 0, (images, prompts)), memory.dtype)


def _after_text(length: int) -> int:
    """Number of prompt tokens after `length` tokens of text: that of the geometry, and padding."""
    return 1 + -(length + 1) % KEY_MULTIPLE


def _with_geometry(text: Tensor, geometry: Tensor) -> Tensor:
    """Text tokens (P, L, C), then the geometry token (B, 1, C), then copies of it as padding: (B * P, M, C)."""
    prompts, length, _ = text.shape
    tokens = geometry[:, None].expand(-1, prompts, _after_text(length), -1).flatten(0, 1)
    return torch.cat((fold_images(text, geometry.shape[0]), tokens), 1)


def _ignored(text_mask: Tensor, kind: torch.dtype) -> Tensor:
    """Text padding (P, L), True is left out, to the bias of every prompt token (P, M): 0 or `IGNORED`."""
    length = text_mask.shape[1]
    after = _after_text(length)
    others = torch.arange(length + after, device=text_mask.device) != length  # than that of the geometry
    return F.pad(text_mask.to(kind), (0, after), value=1.0) * (others.to(kind) * IGNORED)


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
    """The geometry token; the first layer's part before the image is a constant.

    One query needs no keys and values of all image tokens: see `TokenAttention`.
    """

    start: Tensor
    query: Tensor

    def __init__(self, source: EmptyGeometry) -> None:
        super().__init__()
        self.layers = source.layers
        layers: list[Any] = list(source.layers)
        images = [TokenAttention(layer.attend_image) for layer in layers]
        first: Any = layers[0]
        start: Any = source.start
        own = first.attend_self.to_output(first.attend_self.to_value(first.norm1(start)))
        start, y = add_and_normalize(start, own, None, first.norm2)
        self.register_buffer("start", start.detach(), persistent=False)
        self.register_buffer("query", images[0].to_query(y).detach(), persistent=False)
        self.own = nn.ModuleList()
        for layer, image in zip(layers[1:], images[1:], strict=True):
            output = layer.attend_self.to_output
            self.own.append(linear_of(output.weight.detach() @ layer.attend_self.to_value.weight.detach(), output.bias))
            layer.norm2, (image.to_query,) = fold_biases(layer.norm2, [image.to_query])
        self.images = nn.ModuleList(images)
        self.norm = source.norm

    def forward(self, tokens: Tensor, keys: Tensor) -> Tensor:
        """Image tokens (B, T, C) and the same with their positions to the geometry token (B, 1, C)."""
        layers: list[Any] = list(self.layers)
        images: list[Any] = list(self.images)
        norms = [*(layer.norm1 for layer in layers[1:]), self.norm]
        x, query = self.start, self.query.expand(tokens.shape[0], -1, -1)
        y = x
        for index, (layer, image, norm) in enumerate(zip(layers, images, norms, strict=True)):
            if index:
                own: Any = self.own[index - 1]
                x, y = add_and_normalize(x, F.linear(y, own.weight), own.bias, layer.norm2)
                query = image.to_query(y)
            seen = image.attend(query, keys, tokens)
            # The tensor with a row an image comes first: the other one may have one row.
            x, y = add_and_normalize(seen, x, image.bias, layer.norm3)
            x, y = add_and_normalize(x, layer.feed_forward(y), layer.feed_forward.bias, norm)
        return y


class TokenAttention(nn.Module):
    """Attention of one token: a head's query times the matrix of its keys looks at the image tokens themselves.

    Its heads are the queries of an attention with one head of C channels.
    """

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self.heads = source.heads
        query, key, value = (
            unflatten(x.weight.detach(), 0, (self.heads, -1)) for x in (source.to_query, source.to_key, source.to_value)
        )
        bias, output = source.to_query.bias.detach(), source.to_output
        # Logits are divided by the root of the channels of a head, of which there are more now.
        scale = self.heads**0.5
        weight = torch.einsum("hdc,hde->hce", key, query).flatten(0, 1) * scale
        shift = torch.einsum("hdc,hd->hc", key, unflatten(bias, 0, (self.heads, -1))).flatten() * scale
        self.to_query = linear_of(weight, shift)
        after = torch.einsum("ohd,hdc->ohc", unflatten(output.weight.detach(), 1, (self.heads, -1)), value)
        self.to_output = linear_of(after.flatten(1), None)
        self.bias = output.bias

    def attend(self, query: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
        """Projected query (B, 1, H * C), image tokens with and without positions (B, T, C) to (B, 1, C)."""
        queries = unflatten(query.squeeze(1), -1, (self.heads, -1))
        seen: Tensor = self.to_output(attend(queries, keys, tokens, 1).flatten(1)[:, None])
        return seen


class FoldedFusion(nn.Module):
    """Fusion of image tokens with the prompt."""

    def __init__(self, source: PromptFusion) -> None:
        super().__init__()
        self.layers = source.layers
        layers: list[Any] = list(self.layers)
        for layer in layers:
            layer.norm2, (layer.prompt.to_query,) = fold_biases(layer.norm2, [layer.prompt.to_query])

    def forward(
        self, image: tuple[Tensor, Tensor], prompts: tuple[Projected, ...], ignored: Tensor, last: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            image: Tokens (B, T, C) and their positions (1, T, C).
            prompts: Keys and values of the prompt, by layer.
            ignored: Bias of the attention to a prompt's tokens, (N, M).
            last: Normalisation of the result.

        Returns:
            Tokens (N, T, C), and their normalisation.
        """
        tokens, position = image
        bias = every_query(ignored, tokens.shape[1])
        layers: list[Any] = list(self.layers)
        x, y = tokens, layers[0].norm1(tokens)
        for index, (layer, (key, value)) in enumerate(zip(layers, prompts, strict=True)):
            after = layers[index + 1].norm1 if index + 1 < len(layers) else last
            x, y = layer.attend_self(x, y, position)
            query = layer.prompt.to_query(y)
            if index == 0:
                x, query = (fold_prompts(z, ignored.shape[0] // tokens.shape[0]) for z in (x, query))
            seen = layer.prompt.attend(query, key, value, bias)
            x, y = add_and_normalize(x, seen, layer.prompt.to_output.bias, layer.norm3)
            x, y = layer.feed(x, y, after)
        return x, y


class FoldedMaskMemory(nn.Module):
    """The memory that the mask head reads, without the bias of the last projection: feature map 1 has it."""

    def __init__(self, source: MaskMemory) -> None:
        super().__init__()
        self.prompt = source.prompt
        self.norm, (self.prompt.to_query,) = fold_biases(source.norm, [source.prompt.to_query])

    def forward(self, memory: Tensor, normalized: Tensor, prompt: Projected, ignored: Tensor) -> Tensor:
        """Memory (N, T, C), the same by `norm`, keys and values of the prompt and its bias (N, M) to (N, C, T)."""
        bias = every_query(ignored, memory.shape[1])
        seen = self.prompt.attend(self.prompt.to_query(normalized), *prompt, bias)
        return (memory + seen).transpose(1, 2)


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
        factors.weight.data *= scale[:, None]

    def forward(self, queries: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """Queries float32 (…, Q, C) to factors of a type (…, Q, C) and offsets float32 (…, Q)."""
        factors, offsets = self.layers(queries)
        return factors.to(kind), offsets.squeeze(-1)


def _after(layer: nn.Linear, matrix: Tensor) -> nn.Linear:
    """A linear layer followed by a product with a matrix (outputs, C)."""
    return linear_of(matrix @ layer.weight.detach(), matrix @ layer.bias.detach())
