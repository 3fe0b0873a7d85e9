"""From a checkpoint to an artifact's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from export.graphs import graphs_of, image_side
from export.onnx_export import write_onnx
from export.sam3_runtime import quiet, running_on
from export.tokenizer import write_tokenizer
from export.wrappers import MEAN, STD
from job.artifact import FORMAT_VERSION, Artifact, GraphFormat, GraphSpec, Manifest, Precision, file_entry
from job.session import TextFeatures
from job.text import TEXT_FEATURES_NAME, TOKENIZER_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from export.checkpoint import Original

DEFAULT_PROMPTS = ("car", "license plate", "person")


def write_files(original: Original, folder: Path, graph_format: GraphFormat, precision: Precision) -> Artifact:
    """Write everything but the manifest and give the artifact that it will describe."""
    write_tokenizer(original.model.backbone.language_backbone.tokenizer, folder / TOKENIZER_NAME)
    text = encode_prompts(original, DEFAULT_PROMPTS)
    np.savez_compressed(folder / TEXT_FEATURES_NAME, features=text.features, mask=text.mask)
    specs = [
        GraphSpec(file=write_onnx(graph, folder), inputs=graph.inputs, outputs=graph.outputs)
        for graph in graphs_of(original.model)
    ]
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_id=original.model_id,
        sam3_version=original.sam3_version,
        checkpoint_sha256=original.checkpoint_sha256,
        format=graph_format,
        precision=precision,
        image_side=image_side(original.model),
        mean=MEAN,
        std=STD,
        prompts=DEFAULT_PROMPTS,
        context_length=int(original.model.backbone.language_backbone.context_length),
        image_encoder=specs[0],
        grounding=specs[1],
        text_encoder=specs[2],
        files={path.name: file_entry(path) for path in sorted(folder.iterdir())},
        parity=(),
        weights_licence=original.weights_licence,
    )
    return Artifact(folder=folder, manifest=manifest, digest="", pinned=True)


def encode_prompts(original: Original, prompts: tuple[str, ...]) -> TextFeatures:
    """Encode prompts with the original text encoder, one by one as its processor does."""
    rows = []
    with running_on("cpu"), quiet(), torch.inference_mode():
        for prompt in prompts:
            out = original.model.backbone.forward_text([prompt], device="cpu")
            rows.append((out["language_features"].transpose(0, 1).numpy(), out["language_mask"].numpy()))
    return TextFeatures(features=np.concatenate([x for x, _ in rows]), mask=np.concatenate([mask for _, mask in rows]))
