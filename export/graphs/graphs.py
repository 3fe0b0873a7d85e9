"""The graphs of an artifact, ready for an exporter: module, example inputs, names and shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from export.graphs.attention import copy_sharing_weights
from export.graphs.folded.modules import half_precision_modules
from export.graphs.grounding import Grounding
from export.graphs.layers import grid_side
from export.graphs.mask_head import MaskHead
from export.graphs.modules import ImageEncoder, TextEncoder
from job.model.artifact import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from job.model.artifact import Precision

# Sizes of the dynamic dimensions in example inputs. All differ, so that exporters do not merge them; none is 1,
# which exporters treat as a constant.
EXAMPLE_SIZES = {"batch": 2, "prompts": 3, "selected": 5}


@dataclass(frozen=True)
class Graph:
    """One graph; its name is the stem of its file."""

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs of the right types and shapes, all zero."""
        return tuple(_example(spec) for spec in self.inputs)

    def dynamic_dimensions(self) -> tuple[dict[int, str], ...]:
        """Names of the dynamic dimensions, by input."""
        return tuple(
            {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in self.inputs
        )


def graphs_of(model: Any, precision: Precision) -> tuple[Graph, Graph, Graph, Graph]:
    """Return the image encoder, the grounding, the mask head and the text encoder of a `Sam3Image`.

    Args:
        model: Float32; stays as it is, the graphs share its weights where they can.
        precision: For fp16, the first three compute mostly in float16. The text encoder runs once a prompt and
            stays exact. int8 starts from float32 and is made by `export.graphs.quantize`.
    """
    side, kind = grid_side(model), "float16" if precision == "fp16" else "float32"
    copied = copy_sharing_weights(model).eval().requires_grad_(False)
    parts = (ImageEncoder(copied).eval(), Grounding(copied).eval(), MaskHead(copied).eval())
    modules = half_precision_modules(*parts) if precision == "fp16" else parts
    length = int(model.backbone.language_backbone.context_length)
    width, queries = int(model.hidden_dim), int(model.transformer.decoder.num_queries)
    memory = (width, side * side) if precision == "fp16" else (side * side, width)
    maps = tuple(
        TensorSpec(name=f"feature_{i}", dtype=kind, shape=("batch", width, side * scale, side * scale))
        for i, scale in enumerate((4, 2, 1))
    )
    text = (
        TensorSpec(name="text_features", dtype="float32", shape=("prompts", length, width)),
        TensorSpec(name="text_mask", dtype="bool", shape=("prompts", length)),
    )
    answers = (
        TensorSpec(name="scores", dtype="float32", shape=("batch", "prompts", queries)),
        TensorSpec(name="memory", dtype=kind, shape=("batch", "prompts", *memory)),
        TensorSpec(name="queries", dtype=kind, shape=("batch", "prompts", queries, width)),
        TensorSpec(name="offsets", dtype="float32", shape=("batch", "prompts", queries)),
    )
    row = (*(_one_row(spec) for spec in (*maps[:2], *answers[1:])), _SELECTED)
    masks = TensorSpec(name="mask_logits", dtype="float32", shape=("selected", side * 4, side * 4))
    pixels = TensorSpec(name="pixels", dtype="uint8", shape=("batch", *(image_side(model),) * 2, 3))
    tokens = TensorSpec(name="token_ids", dtype="int64", shape=("prompts", length))
    return (
        Graph("image_encoder", modules[0], (pixels,), maps),
        Graph("grounding", modules[1], (maps[-1], *text), answers),
        Graph("mask_head", modules[2], row, (masks,)),
        Graph("text_encoder", TextEncoder(copied).eval(), (tokens,), text),
    )


_SELECTED = TensorSpec(name="selected", dtype="int64", shape=("selected",))


def _one_row(spec: TensorSpec) -> TensorSpec:
    """The tensor of one image and one prompt."""
    dimensions = tuple(size for size in spec.shape if not isinstance(size, str))
    return TensorSpec(name=spec.name, dtype=spec.dtype, shape=(1, *dimensions))


def image_side(model: Any) -> int:
    """Side of the model's square input, in pixels."""
    return grid_side(model) * int(model.backbone.vision_backbone.trunk.patch_embed.proj.kernel_size[0])


def _example(spec: TensorSpec) -> Tensor:
    shape = [EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in spec.shape]
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))
