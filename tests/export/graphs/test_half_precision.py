"""The fp16 graphs: fused operators, few casts, and the answers of the official processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx
import pytest

from export.checkpoint import Original
from job.model.artifact import Artifact


@pytest.fixture(scope="module")
def artifact(exported: Callable[[str, str], Artifact]) -> Artifact:
    return exported("onnx", "fp16")


def operators(artifact: Artifact, graph: str) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(artifact.path(f"{graph}.onnx")).graph.node)


def test_masks_agree_with_the_official_processor(artifact: Artifact) -> None:
    for figures in artifact.manifest.parity:
        assert figures.passed
        assert figures.mask_iou_mean >= 0.999
        assert min(figures.instances.values()) > 0


def test_a_block_of_the_encoder_is_twelve_operators(artifact: Artifact, original: Original) -> None:
    blocks = len(original.model.backbone.vision_backbone.trunk.blocks)
    found = operators(artifact, "image_encoder")
    assert found["MultiHeadAttention"] == found["BiasGelu"] == blocks
    assert found["RotaryEmbedding"] == found["SkipLayerNormalization"] == 2 * blocks
    assert found["MatMul"] == 6 * blocks + 1  # the patches
    assert found["Add"] == 2  # the last block's residual stream and its bias
    assert (found["Transpose"], found["DequantizeLinear"], found["Cast"], found["LayerNormalization"]) == (2, 1, 0, 1)


def test_constants_are_folded(artifact: Artifact, original: Original) -> None:
    """What depends on no input is computed at export, and the prompts' parts once, not once a layer."""
    found = operators(artifact, "grounding")
    decoder, fusion = original.model.transformer.decoder.num_layers, original.model.transformer.encoder.num_layers
    geometry = len(original.model.geometry_encoder.encode)
    assert found["Sin"] == found["Log"] == decoder - 1
    assert not {"Cos", "Sign", "Abs"} & set(found)
    assert found["MultiHeadAttention"] == 3 * decoder - 1 + 2 * fusion + geometry + 1
    assert found["Expand"] <= 10
    assert found["Pad"] == found["Slice"] == found["Gather"] == 1  # none for the tokens that are no queries
    assert sum(found.values()) < 300


def test_the_mask_head_has_fixed_shapes(artifact: Artifact) -> None:
    graph = onnx.load(artifact.path("mask_head.onnx")).graph
    dynamic = {x.name for x in graph.input if any(d.dim_param for d in x.type.tensor_type.shape.dim)}
    assert dynamic == {"selected"}
    found = operators(artifact, "mask_head")
    assert found["InstanceNormalization"] == found["Conv"] == 2
    assert found["Cast"] == 1
    assert not {"Shape", "GroupNormalization", "GatherND", "NonZero", "Resize"} & set(found)
