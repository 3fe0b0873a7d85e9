"""A small SAM 3: sam3's classes, assembled as `sam3.model_builder` does, with smaller sizes.

The official `Sam3Processor(model, resolution=config.image_side_px, device="cpu")` runs the result unchanged. Where
sam3's constructors would allocate constants on a GPU they receive None, and compute them at the first use.
"""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from export.sam3_runtime import quiet, vocabulary_path
from job.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = "sam3-annotate-demo/1"
TOKEN_TABLE = "backbone.language_backbone.encoder.token_embedding.weight"
# Constants that the model computes from its sizes.
_COMPUTED = ".freqs_cis"
_SHOWN_KEYS = 5


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Sizes of the network.

    Attributes:
        image_side_px: Side of the square that pictures are resized to; weights do not depend on it.
        patch_px: Side of a patch.
        window_patches: Side of an attention window; has to divide the grid, or windows attend to padding.
        vit_dim: Width of the vision transformer.
        vit_depth: Its blocks.
        vit_heads: Its heads; a head's size has to be a multiple of 4.
        vit_mlp_ratio: Width of its feed-forward layers, in widths of the transformer.
        vit_global_blocks: Blocks without windows; the last block has to be one, its output is the features.
        dim: Width of everything else; a multiple of 8.
        heads: Heads of everything else.
        feed_forward_dim: Width of the feed-forward layers.
        encoder_layers: Layers that fuse picture and prompt.
        decoder_layers: Layers of the detection decoder.
        geometry_layers: Layers of the encoder of box and point prompts.
        queries: Queries of the decoder.
        score_dim: Hidden width of the scores' network.
        text_dim: Width of the text encoder.
        text_heads: Its heads.
        text_layers: Its layers.
        text_tokens: Tokens of a prompt, padding included.
        vocabulary_size: Token ids of sam3's tokenizer.
    """

    image_side_px: int = 336
    patch_px: int = 14
    window_patches: int = 8
    vit_dim: int = 96
    vit_depth: int = 4
    vit_heads: int = 4
    vit_mlp_ratio: float = 4.0
    vit_global_blocks: tuple[int, ...] = (1, 3)
    dim: int = 48
    heads: int = 4
    feed_forward_dim: int = 256
    encoder_layers: int = 2
    decoder_layers: int = 3
    geometry_layers: int = 1
    queries: int = 30
    score_dim: int = 256
    text_dim: int = 32
    text_heads: int = 4
    text_layers: int = 1
    text_tokens: int = 32
    vocabulary_size: int = 49408

    def __post_init__(self) -> None:
        grid, rest = divmod(self.image_side_px, self.patch_px)
        if rest or grid % self.window_patches:
            raise ConfigurationError(
                f"image_side_px is {self.image_side_px}: it has to be a multiple of patch_px x window_patches "
                f"({self.patch_px * self.window_patches})"
            )
        if self.vit_depth - 1 not in self.vit_global_blocks:
            raise ConfigurationError(f"vit_global_blocks {self.vit_global_blocks} lacks the last, {self.vit_depth - 1}")

    @property
    def grid_side(self) -> int:
        """Patches along a side."""
        return self.image_side_px // self.patch_px


def build_model(config: DemoConfig, seed: int) -> Any:
    """Build a `Sam3Image` with random weights, float32, on the CPU, in evaluation mode.

    Args:
        config: Sizes.
        seed: Seed of the weights.
    """
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return _Builder(config).model().eval()


def save_checkpoint(path: Path, config: DemoConfig, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a checkpoint with weights in float16.

    Args:
        path: File to write.
        config: Sizes of the network.
        weights: Its state dictionary; constants that the model computes are omitted.
    """
    halved = {
        key: value.detach().to(torch.float16) if value.is_floating_point() else value.detach()
        for key, value in weights.items()
        if not key.endswith(_COMPUTED)
    }
    plain = {**asdict(config), "vit_global_blocks": list(config.vit_global_blocks)}
    torch.save({"format": FORMAT, "config": plain, "model": halved}, path)


def load_checkpoint(path: Path) -> tuple[Any, DemoConfig]:
    """Load a checkpoint into a model in evaluation mode, float32.

    Raises:
        ConfigurationError: The file is not a checkpoint of the demo model, or its weights do not fit its sizes.
    """
    content = read_checkpoint(path)
    if content.get("format") != FORMAT:
        raise ConfigurationError(f"{path} is of format {content.get('format')!r}, not {FORMAT!r}: train it again")
    config = _config(content.get("config"), path)
    model = build_model(config, seed=0)
    load_weights(model, content["model"], path)
    return model, config


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Raises:
        ConfigurationError: The file cannot be read so, or holds no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as exc:
        raise ConfigurationError(f"{path} is no checkpoint that can be read: {exc}") from exc
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConfigurationError(f'{path} is no checkpoint: a dictionary with the weights as "model" was expected')
    return content


def load_weights(model: Any, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load weights in the official layout; a missing weight, an unexpected one or a wrong shape is an error.

    Args:
        model: What `build_model` gives.
        weights: Tensors by name, of any floating type.
        path: Where they are from, for the message.

    Raises:
        ConfigurationError: They are not those of this model.
    """
    expected = {key: value.shape for key, value in model.state_dict().items() if not key.endswith(_COMPUTED)}
    given = {key: value for key, value in weights.items() if not key.endswith(_COMPUTED)}
    misfits = {key for key in expected.keys() & given.keys() if expected[key] != given[key].shape}
    misfits |= expected.keys() ^ given.keys()
    if misfits:
        shown = ", ".join(sorted(misfits)[:_SHOWN_KEYS])
        raise ConfigurationError(f"{path}: {len(misfits)} weights are missing, unknown or of another shape: {shown}")
    model.load_state_dict({key: _as_float(value) for key, value in given.items()}, strict=False)


def _as_float(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value


def _config(plain: object, path: Path) -> DemoConfig:
    known = {field.name for field in dataclasses.fields(DemoConfig)}
    if not isinstance(plain, dict):
        raise ConfigurationError(f'{path} has no sizes: "config" is a {type(plain).__name__}, not a dictionary')
    if set(plain) != known:
        raise ConfigurationError(f"{path}: sizes {sorted(set(plain) ^ known)} are missing or unknown")
    return DemoConfig(**{**plain, "vit_global_blocks": tuple(plain["vit_global_blocks"])})


class _Builder:
    """Builds the parts of the network as `sam3.model_builder` does."""

    def __init__(self, config: DemoConfig) -> None:
        self._config = config

    def model(self) -> Any:
        from sam3.model.model_misc import MLP, DotProductScoring, TransformerWrapper
        from sam3.model.sam3_image import Sam3Image
        from sam3.model.vl_combiner import SAM3VLBackbone

        c = self._config
        prompt_mlp = MLP(
            input_dim=c.dim, hidden_dim=c.score_dim, output_dim=c.dim, num_layers=2, dropout=0.0, residual=True,
            out_norm=nn.LayerNorm(c.dim),
        )  # fmt: skip
        return Sam3Image(
            backbone=SAM3VLBackbone(visual=self._vision(), text=self._text(), scalp=1),
            transformer=TransformerWrapper(encoder=self._encoder(), decoder=self._decoder(), d_model=c.dim),
            input_geometry_encoder=self._geometry(),
            segmentation_head=self._segmentation(),
            num_feature_levels=1,
            o2m_mask_predict=True,
            dot_prod_scoring=DotProductScoring(d_model=c.dim, d_proj=c.dim, prompt_mlp=prompt_mlp),
            use_instance_query=False,
            multimask_output=True,
            inst_interactive_predictor=None,
            matcher=None,
        )

    def _position(self) -> Any:
        from sam3.model.position_encoding import PositionEmbeddingSine

        return PositionEmbeddingSine(
            num_pos_feats=self._config.dim, normalize=True, scale=None, temperature=10000, precompute_resolution=None
        )

    def _attention(self, *, batch_first: bool = False) -> Any:
        from sam3.model.model_misc import MultiheadAttentionWrapper

        c = self._config
        return MultiheadAttentionWrapper(num_heads=c.heads, dropout=0.0, embed_dim=c.dim, batch_first=batch_first)

    def _vision(self) -> Any:
        from sam3.model.necks import Sam3DualViTDetNeck
        from sam3.model.vitdet import ViT

        c = self._config
        trunk = ViT(
            img_size=c.image_side_px, pretrain_img_size=c.window_patches * c.patch_px, patch_size=c.patch_px,
            embed_dim=c.vit_dim, depth=c.vit_depth, num_heads=c.vit_heads, mlp_ratio=c.vit_mlp_ratio,
            norm_layer="LayerNorm", drop_path_rate=0.0, qkv_bias=True, use_abs_pos=True, tile_abs_pos=True,
            global_att_blocks=c.vit_global_blocks, rel_pos_blocks=(), use_rope=True, use_interp_rope=True,
            window_size=c.window_patches, pretrain_use_cls_token=True, retain_cls_token=False, ln_pre=True,
            ln_post=False, return_interm_layers=False, bias_patch_embed=False, compile_mode=None,
        )  # fmt: skip
        return Sam3DualViTDetNeck(
            position_encoding=self._position(), d_model=c.dim, scale_factors=[4.0, 2.0, 1.0, 0.5], trunk=trunk,
            add_sam2_neck=False,
        )  # fmt: skip

    def _text(self) -> Any:
        from sam3.model.text_encoder_ve import VETextEncoder
        from sam3.model.tokenizer_ve import SimpleTokenizer

        c = self._config
        text = VETextEncoder(
            tokenizer=SimpleTokenizer(bpe_path=vocabulary_path()), d_model=c.dim, width=c.text_dim,
            heads=c.text_heads, layers=c.text_layers, context_length=c.text_tokens, vocab_size=c.vocabulary_size,
        )  # fmt: skip
        # sam3 leaves these two as uninitialised memory, and discards what it computes with the second.
        nn.init.normal_(text.encoder.positional_embedding, std=0.02)
        nn.init.zeros_(text.encoder.text_projection)
        return text

    def _encoder(self) -> Any:
        from sam3.model.encoder import TransformerEncoderFusion, TransformerEncoderLayer

        c = self._config
        layer = TransformerEncoderLayer(
            activation="relu", d_model=c.dim, dim_feedforward=c.feed_forward_dim, dropout=0.0, pos_enc_at_attn=True,
            pos_enc_at_cross_attn_keys=False, pos_enc_at_cross_attn_queries=False, pre_norm=True,
            self_attention=self._attention(batch_first=True), cross_attention=self._attention(batch_first=True),
        )  # fmt: skip
        return TransformerEncoderFusion(
            layer=layer, num_layers=c.encoder_layers, d_model=c.dim, num_feature_levels=1, frozen=False,
            use_act_checkpoint=True, add_pooled_text_to_img_feat=False, pool_text_with_mask=True,
        )  # fmt: skip

    def _decoder(self) -> Any:
        from sam3.model.decoder import TransformerDecoder, TransformerDecoderLayer

        c = self._config
        layer = TransformerDecoderLayer(
            activation="relu", d_model=c.dim, dim_feedforward=c.feed_forward_dim, dropout=0.0,
            cross_attention=self._attention(), n_heads=c.heads, use_text_cross_attention=True,
        )  # fmt: skip
        return TransformerDecoder(
            layer=layer, num_layers=c.decoder_layers, num_queries=c.queries, return_intermediate=True,
            box_refine=True, num_o2m_queries=0, dac=True, boxRPB="log", d_model=c.dim, frozen=False,
            interaction_layer=None, dac_use_selfatt_ln=True, resolution=None, stride=None, use_act_checkpoint=True,
            presence_token=True,
        )  # fmt: skip

    def _geometry(self) -> Any:
        from sam3.model.encoder import TransformerEncoderLayer
        from sam3.model.geometry_encoders import SequenceGeometryEncoder

        c = self._config
        layer = TransformerEncoderLayer(
            activation="relu", d_model=c.dim, dim_feedforward=c.feed_forward_dim, dropout=0.0, pos_enc_at_attn=False,
            pre_norm=True, self_attention=self._attention(), pos_enc_at_cross_attn_queries=False,
            pos_enc_at_cross_attn_keys=True, cross_attention=self._attention(),
        )  # fmt: skip
        return SequenceGeometryEncoder(
            pos_enc=self._position(), encode_boxes_as_points=False, points_direct_project=True, points_pool=True,
            points_pos_enc=True, boxes_direct_project=True, boxes_pool=True, boxes_pos_enc=True, d_model=c.dim,
            num_layers=c.geometry_layers, layer=layer, use_act_ckpt=True, add_cls=True, add_post_encode_proj=True,
        )  # fmt: skip

    def _segmentation(self) -> Any:
        from sam3.model.maskformer_segmentation import PixelDecoder, UniversalSegmentationHead

        c = self._config
        pixels = PixelDecoder(
            num_upsampling_stages=3, interpolation_mode="nearest", hidden_dim=c.dim, compile_mode=None
        )
        return UniversalSegmentationHead(
            hidden_dim=c.dim, upsampling_stages=3, aux_masks=False, presence_head=False, dot_product_scorer=None,
            act_ckpt=True, cross_attend_prompt=self._attention(), pixel_decoder=pixels,
        )  # fmt: skip
