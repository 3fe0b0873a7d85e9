"""The grounding graph: scores of every prompt and query, and what the mask head needs to decode the masks of a row.

Images and prompts fold into one batch of image-major rows; B images, P prompts, N = B * P rows, T image tokens, L text
tokens, M prompt tokens, Q queries, C channels, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.graphs.attention import Attention
from export.graphs.layers import FeedForward, fold_images, fold_prompts, key_bias, position_tokens, with_geometry
from export.graphs.operators import add_and_normalize, unflatten
from export.graphs.query_decoder import QueryDecoder


class Grounding(nn.Module):
    """The coarsest feature map and text to scores, memory, queries and geometry."""

    position: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.geometry = EmptyGeometry(model.geometry_encoder)
        self.fusion = PromptFusion(model.transformer.encoder)
        self.queries = QueryDecoder(model)
        self.masks = MaskMemory(model.segmentation_head)
        self.embeddings = MaskEmbeddings(model.segmentation_head)
        self.register_buffer("position", position_tokens(model), persistent=False)

    def forward(self, feature_2: Tensor, text_features: Tensor, text_mask: Tensor) -> tuple[Tensor, ...]:
        """Find every prompt in every image.

        Returns:
            Scores float32 (B, P, Q), memory (B, P, T, C), queries (B, P, Q, C) and offsets float32 (B, P, Q): the mask
            of a query is its product with the pixels that the mask head decodes from the memory, plus its offset.
        """
        images, prompts = feature_2.shape[0], text_features.shape[0]
        tokens = feature_2.flatten(2).transpose(1, 2)
        keys = tokens + self.position
        geometry = self.geometry(tokens, keys).to(torch.float32)
        prompt, padding = with_geometry(
            fold_images(text_features, images), fold_images(text_mask, images), fold_prompts(geometry, prompts)
        )
        narrow = prompt.to(tokens.dtype)
        memory = self.fusion(tokens, self.position, narrow, padding)
        query, logit, presence = self.queries(memory, self.position, prompt, padding)
        scores = torch.sigmoid(logit) * torch.sigmoid(presence)
        decoded = self.masks(memory, narrow, padding), *self.embeddings(query, memory.dtype)
        rows = (unflatten(x, 0, (images, prompts)) for x in (scores, *decoded))
        return tuple(rows)


class EmptyGeometry(nn.Module):
    """Output of sam3's geometry encoder for no points and no boxes: one token that depends on the image."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        start = encoder.norm(encoder.final_proj(encoder.cls_embed.weight.detach().view(1, 1, -1)))
        self.register_buffer("start", start.detach(), persistent=False)
        self.layers = nn.ModuleList(GeometryLayer(layer) for layer in encoder.encode)
        self.norm = encoder.encode_norm

    def forward(self, tokens: Tensor, keys: Tensor) -> Tensor:
        """Image tokens (B, T, C) and the same with their positions to the geometry token (B, 1, C)."""
        x: Any = self.start
        for index, layer in enumerate(self.layers):
            x = layer(x, tokens, keys, is_first=index == 0)
        token: Tensor = self.norm(x)
        return token


class GeometryLayer(nn.Module):
    """One layer for a single token, whose self-attention is its own value; rows are 1 before the first layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        assert layer.pre_norm
        assert not layer.pos_enc_at_attn
        assert not layer.pos_enc_at_cross_attn_queries
        assert layer.pos_enc_at_cross_attn_keys
        self.attend_self, self.attend_image = Attention(layer.self_attn), Attention(layer.cross_attn_image)
        self.norm1, self.norm2, self.norm3 = layer.norm1, layer.norm2, layer.norm3
        self.feed_forward = FeedForward(layer)

    def forward(self, x: Tensor, tokens: Tensor, keys: Tensor, *, is_first: bool) -> Tensor:
        """(B, 1, C), in the first layer (1, 1, C), to (B, 1, C)."""
        own: Tensor = self.attend_self.to_output(self.attend_self.to_value(self.norm1(x)))
        x, y = add_and_normalize(x, own, None, self.norm2)
        if is_first:
            x, y = (z.expand(tokens.shape[0], -1, -1) for z in (x, y))
        image = self.attend_image
        x, y = add_and_normalize(x, image(y, keys, tokens), image.to_output.bias, self.norm3)
        grown: Tensor = x + (self.feed_forward(y) + self.feed_forward.bias)
        return grown


class PromptFusion(nn.Module):
    """Fusion of image tokens with the prompt.

    The first layer's self-attention comes before the prompt is seen, so it runs once an image.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FusionLayer(layer) for layer in encoder.layers)

    def forward(self, tokens: Tensor, position: Tensor, prompt: Tensor, padding: Tensor) -> Tensor:
        """(B, T, C), positions (1, T, C), a prompt (N, M, C) and its padding (N, M) to (N, T, C)."""
        bias = key_bias(padding, tokens)
        prompts = prompt.shape[0] // tokens.shape[0]
        layers: list[Any] = list(self.layers)
        x, y = tokens, layers[0].norm1(tokens)
        for index, layer in enumerate(layers):
            after = layers[index + 1].norm1 if index + 1 < len(layers) else None
            x, y = layer.attend_self(x, y, position)
            if index == 0:
                x, y = fold_prompts(x, prompts), fold_prompts(y, prompts)
            x, y = layer.attend_prompt(x, y, prompt, bias, after)
        return x


class FusionLayer(nn.Module):
    """One layer of the fusion. Each part takes the residual stream and its normalisation, and returns both."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        assert layer.pre_norm
        assert layer.pos_enc_at_attn
        assert not layer.pos_enc_at_cross_attn_queries
        assert not layer.pos_enc_at_cross_attn_keys
        self.image, self.prompt = Attention(layer.self_attn), Attention(layer.cross_attn_image)
        self.norm1, self.norm2, self.norm3 = layer.norm1, layer.norm2, layer.norm3
        self.feed_forward = FeedForward(layer)

    def attend_self(self, x: Tensor, y: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Attend among the image tokens."""
        q = y + position
        return add_and_normalize(x, self.image(q, q, y), self.image.to_output.bias, self.norm2)

    def attend_prompt(
        self, x: Tensor, y: Tensor, prompt: Tensor, bias: Tensor, norm: nn.LayerNorm | None
    ) -> tuple[Tensor, Tensor]:
        """Attend to the prompt, then run the feed-forward network."""
        x, y = add_and_normalize(x, self.prompt(y, prompt, prompt, bias), self.prompt.to_output.bias, self.norm3)
        return self.feed(x, y, norm)

    def feed(self, x: Tensor, y: Tensor, norm: nn.LayerNorm | None) -> tuple[Tensor, Tensor]:
        """Run the feed-forward network."""
        branch, after = self.feed_forward(y), self.feed_forward.bias
        if norm is None:
            x = x + (branch + after)
            return x, x
        return add_and_normalize(x, branch, after, norm)


class MaskMemory(nn.Module):
    """The memory after it has attended to the prompt once more, as the mask head reads it."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.norm, self.prompt = head.cross_attn_norm, Attention(head.cross_attend_prompt)

    def forward(self, memory: Tensor, prompt: Tensor, padding: Tensor) -> Tensor:
        """(N, T, C) and a prompt (N, M, C) with its padding (N, M) to (N, T, C)."""
        attended = self.prompt(self.norm(memory), prompt, prompt, key_bias(padding, memory))
        seen: Tensor = memory + (attended + self.prompt.to_output.bias)
        return seen


class MaskEmbeddings(nn.Module):
    """Queries to what multiplies the pixels.

    The last convolution of the pixels has a kernel of 1: it multiplies the queries instead, which are fewer.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.embed = head.mask_predictor.mask_embed
        self.register_buffer("weight", head.instance_seg_head.weight.detach().flatten(1), persistent=False)
        self.register_buffer("bias", head.instance_seg_head.bias.detach(), persistent=False)

    def forward(self, queries: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """Queries float32 (N, Q, C) to factors of a type (N, Q, C) and offsets float32 (N, Q)."""
        embedded: Tensor = self.embed(queries)
        return (embedded @ self.weight).to(kind), embedded @ self.bias
