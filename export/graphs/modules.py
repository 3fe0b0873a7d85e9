"""The three graphs of an artifact as modules: image encoder, grounding, text encoder.

They run the parts of sam3's `Sam3Image` that its `Sam3Processor` uses for a text prompt, and nothing else: no
boxes, no semantic segmentation, no mask of an intermediate layer. Images and prompts fold into one batch of
image-major rows; B images, P prompts, N = B * P rows, T image tokens, L text tokens, Q queries, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import copy_sharing_weights, replace_attention

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


def exportable_copy(model: nn.Module) -> nn.Module:
    """Copy a `Sam3Image`, weights shared, with attention that can be exported."""
    copied = copy_sharing_weights(model).eval().requires_grad_(False)
    replace_attention(copied)
    return copied


class ImageEncoder(nn.Module):
    """Pixels uint8 (B, S, S, 3) to the three feature maps that grounding reads, finest first."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        neck = model.backbone.vision_backbone
        self.trunk = neck.trunk
        # The neck builds a coarser level that the backbone drops.
        self.levels = nn.ModuleList(neck.convs[: len(neck.convs) - model.backbone.scalp])
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalize and encode."""
        image = pixels.permute(0, 3, 1, 2).to(torch.float32) * (1 / 255)
        tokens = self.trunk((image - self.mean) / self.std)[-1]
        return tuple(level(tokens) for level in self.levels)


class TextEncoder(nn.Module):
    """Token ids int64 (P, L) to text features (P, L, C) and padding mask (P, L).

    The projection that the original computes and discards is left out.
    """

    position: Tensor
    causal: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        language = model.backbone.language_backbone
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


class Grounding(nn.Module):
    """Features and text to scores (B, P, Q), selected (K, 3) and mask logits (K, h, w)."""

    position: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.geometry = EmptyGeometry(model.geometry_encoder)
        self.fusion = PromptFusion(model.transformer.encoder)
        self.queries = QueryDecoder(model)
        self.masks = MaskHead(model.segmentation_head)
        self.register_buffer("position", position_tokens(model), persistent=False)

    def forward(
        self,
        feature_0: Tensor,
        feature_1: Tensor,
        feature_2: Tensor,
        text_features: Tensor,
        text_mask: Tensor,
        score_threshold: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find every prompt in every image; only the masks of queries above the threshold are returned."""
        images, prompts = feature_2.shape[0], text_features.shape[0]
        tokens = feature_2.flatten(2).transpose(1, 2).to(torch.float32)
        prompt, padding = self._prompt(tokens, text_features, text_mask)
        memory = self.fusion(tokens, self.position, prompt, padding)
        query, logit, presence = self.queries(memory, self.position, prompt, padding)
        rows = torch.sigmoid(logit.to(torch.float32)) * torch.sigmoid(presence.to(torch.float32))
        scores = rows.view(images, prompts, rows.shape[-1])
        selected = torch.nonzero(scores > score_threshold)
        masks = self.masks((feature_0, feature_1, feature_2), memory, query, prompt, padding)
        image, of, index = selected.unbind(1)
        chosen = (image * prompts + of) * rows.shape[-1] + index
        return scores, selected, masks.flatten(0, 1)[chosen].to(torch.float32)

    def _prompt(self, tokens: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text tokens, then the geometry token of the image: (N, L + 1, C) and padding (N, L + 1)."""
        images, prompts = tokens.shape[0], text.shape[0]
        geometry = fold_prompts(self.geometry(tokens, self.position), prompts)
        folded = fold_images(text, images).to(geometry.dtype)
        padding = fold_images(text_mask, images)
        return torch.cat((folded, geometry), 1), torch.cat((padding, torch.zeros_like(padding[:, :1])), 1)


class EmptyGeometry(nn.Module):
    """Output of sam3's geometry encoder for no points and no boxes: one token that depends on the image."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Image tokens (B, T, C) to the geometry token (B, 1, C)."""
        e = self.encoder
        start = e.norm(e.final_proj(e.cls_embed.weight.view(1, 1, -1)))
        x = start.expand(1, tokens.shape[0], -1)
        memory = tokens.transpose(0, 1)
        for layer in e.encode:
            x = layer(tgt=x, memory=memory, pos=position.transpose(0, 1))
        token: Tensor = e.encode_norm(x)
        return token.transpose(0, 1)


class PromptFusion(nn.Module):
    """Fusion of image tokens with the prompt.

    The first layer's self-attention comes before the prompt is seen, so it runs once an image.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.layers = encoder.layers

    def forward(self, tokens: Tensor, position: Tensor, prompt: Tensor, padding: Tensor) -> Tensor:
        """(B, T, C) and a prompt (N, L, C) to (N, T, C)."""
        first, *others = self.layers
        x = fold_prompts(self._attend_self(first, tokens, position), prompt.shape[0] // tokens.shape[0])
        x = self._attend_prompt(first, x, prompt, padding)
        for layer in others:
            x = self._attend_prompt(layer, self._attend_self(layer, x, position), prompt, padding)
        return x

    @staticmethod
    def _attend_self(layer: Any, x: Tensor, position: Tensor) -> Tensor:
        y = layer.norm1(x)
        q = y + position
        seen: Tensor = layer.self_attn(q, q, value=y)[0]
        return x + seen

    @staticmethod
    def _attend_prompt(layer: Any, x: Tensor, prompt: Tensor, padding: Tensor) -> Tensor:
        y = layer.norm2(x)
        x = x + layer.cross_attn_image(query=y, key=prompt, value=prompt, key_padding_mask=padding)[0]
        widened: Tensor = layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
        return x + widened


class QueryDecoder(nn.Module):
    """Object queries, their logits and the presence logit, from the last decoder layer alone."""

    coordinates: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.transformer.decoder
        self.scoring = model.dot_prod_scoring
        self.side = grid_side(model)
        coordinates = torch.arange(self.side, dtype=torch.float32) / self.side
        self.register_buffer("coordinates", coordinates.view(1, 1, -1, 1), persistent=False)

    def forward(
        self, memory: Tensor, position: Tensor, prompt: Tensor, padding: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Memory (N, T, C) to queries (N, Q, C), logits (N, Q) and presence (N, 1)."""
        rows = memory.shape[0]
        x = self.decoder.query_embed.weight[:, None].expand(-1, rows, -1)
        boxes = self.decoder.reference_points.weight.sigmoid()[:, None].expand(-1, rows, -1)
        presence = self.decoder.presence_token.weight[None].expand(1, rows, -1)
        memory, position, prompt_tokens = (t.transpose(0, 1) for t in (memory, position, prompt))
        for index, layer in enumerate(self.decoder.layers):
            if index:
                boxes = self._refine(boxes, x)
            x, presence = layer(
                tgt=x,
                tgt_query_pos=self._query_position(boxes),
                memory_text=prompt_tokens,
                text_attention_mask=padding,
                memory=memory,
                memory_pos=position,
                cross_attn_mask=self._box_bias(boxes),
                presence_token=presence,
            )
        query = self.decoder.norm(x).transpose(0, 1)
        logit = self.scoring(query[None], prompt_tokens, padding)[0, ..., 0]
        return query, logit, self._presence_logit(presence)

    def _query_position(self, boxes: Tensor) -> Tensor:
        from sam3.model.model_misc import gen_sineembed_for_position

        embedded: Tensor = gen_sineembed_for_position(boxes, self.decoder.d_model)
        position: Tensor = self.decoder.ref_point_head(embedded)
        return position

    def _refine(self, boxes: Tensor, x: Tensor) -> Tensor:
        from sam3.model.model_misc import inverse_sigmoid

        refined: Tensor = (self.decoder.bbox_embed(self.decoder.norm(x)) + inverse_sigmoid(boxes)).sigmoid()
        return refined

    def _presence_logit(self, presence: Tensor) -> Tensor:
        logit: Tensor = self.decoder.presence_token_head(self.decoder.presence_token_out_norm(presence))
        return logit[0]

    def _box_bias(self, boxes: Tensor) -> Tensor:
        """Attention bias by the position of an image token relative to a query's box: (N * heads, Q, T)."""
        cx, cy, w, h = boxes.transpose(0, 1).unbind(-1)
        bias_x = self._axis_bias(self.decoder.boxRPB_embed_x, cx, w)
        bias_y = self._axis_bias(self.decoder.boxRPB_embed_y, cy, h)
        bias = bias_y[:, :, :, None] + bias_x[:, :, None]
        return bias.flatten(2, 3).permute(0, 3, 1, 2).flatten(0, 1)

    def _axis_bias(self, embed: Any, centre: Tensor, extent: Tensor) -> Tensor:
        """(N, Q) centers and extents along an axis to (N, Q, side, heads)."""
        edges = torch.stack((centre - 0.5 * extent, centre + 0.5 * extent), -1)
        distance = (self.coordinates - edges[:, :, None]) * 8
        bias: Tensor = embed(distance.sign() * torch.log2(distance.abs() + 1.0) / 3.0)
        return bias


class MaskHead(nn.Module):
    """Mask logits of every query, (N, Q, h, w)."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, features: tuple[Tensor, ...], memory: Tensor, query: Tensor, prompt: Tensor, padding: Tensor
    ) -> Tensor:
        """Attend from the memory to the prompt, decode pixels, and multiply them with the queries."""
        y = self.head.cross_attn_norm(memory).transpose(0, 1)
        key = prompt.transpose(0, 1)
        attended = self.head.cross_attend_prompt(query=y, key=key, value=key, key_padding_mask=padding)[0]
        seen = (attended.transpose(0, 1) + memory).transpose(1, 2)
        pixels = self._decode_pixels(features, seen.unflatten(-1, features[-1].shape[-2:]))
        embedded: Tensor = self.head.mask_predictor.mask_embed(query).to(pixels.dtype)
        logits = embedded @ pixels.flatten(2)
        return logits.reshape(*logits.shape[:2], *pixels.shape[-2:])

    def _decode_pixels(self, features: tuple[Tensor, ...], x: Tensor) -> Tensor:
        decoder = self.head.pixel_decoder
        prompts = x.shape[0] // features[0].shape[0]
        for feature, convolution, norm in zip(features[-2::-1], decoder.conv_layers, decoder.norms, strict=False):
            upsampled = F.interpolate(x, size=feature.shape[-2:], mode=decoder.interpolation_mode)
            x = F.relu(norm(convolution(fold_prompts(feature, prompts) + upsampled)))
        pixels: Tensor = self.head.instance_seg_head(x)
        return pixels


def fold_prompts(x: Tensor, prompts: int) -> Tensor:
    """Repeat every image for every prompt: (B, …) to (B * P, …)."""
    return x[:, None].expand(-1, prompts, *x.shape[1:]).flatten(0, 1)


def fold_images(x: Tensor, images: int) -> Tensor:
    """Repeat the prompts for every image: (P, …) to (B * P, …)."""
    return x[None].expand(images, *x.shape).flatten(0, 1)


def grid_side(model: Any) -> int:
    """Image tokens along one side of the image."""
    return int(max(block.attn.input_size[0] for block in model.backbone.vision_backbone.trunk.blocks))


def position_tokens(model: Any) -> Tensor:
    """Sine position of every image token, (1, T, C)."""
    encoding, side = model.backbone.vision_backbone.position_encoding, grid_side(model)
    encoded: Tensor = encoding(torch.zeros(1, 1, side, side))
    return encoded.flatten(2).transpose(1, 2).clone()
