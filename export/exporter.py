"""Exports a checkpoint to an artifact and verifies that both agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import msgspec
import numpy as np
import torch

from export.calibrated.drafts import calibrated, calibration_pixels
from export.graphs.graphs import graphs_of, image_side
from export.graphs.modules import MEAN, STD
from export.graphs.onnx_writer import write_onnx
from export.graphs.torchscript_writer import write_torchscript
from export.parity.machine import machine_name
from export.parity.pictures import drawn_pictures, pictures_of
from export.parity.recording import (
    REFERENCE_PICTURES,
    record,
    record_reference,
    recording,
    release_memory,
)
from export.parity.verify import compare
from export.sam3_runtime import quiet, running_on
from export.staging import staged_folder
from export.tokenizer import write_tokenizer
from job.errors import ConfigurationError
from job.model.artifact import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    Artifact,
    FileEntry,
    GraphFormat,
    GraphSpec,
    Manifest,
    Precision,
    encode_manifest,
    file_entry,
)
from job.model.comparison import describe, report
from job.model.loader import open_session
from job.model.prompts import TEXT_FEATURES_NAME, TOKENIZER_NAME
from job.model.self_check import compare_with_reference
from job.model.session import TextFeatures
from job.postprocess.masks import full_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from export.checkpoint import Original
    from export.parity.recording import Recording
    from job.model.artifact import ParityFigures
    from job.model.session import Device, Runtime

    Parity = tuple[ParityFigures, ParityFigures]

DEFAULT_PROMPTS = ("car", "license plate", "person")
_WRITERS = {"onnx": write_onnx, "torchscript": write_torchscript}


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """Parameters of an export.

    Attributes:
        out: Folder of the artifact; an existing artifact is replaced.
        format: Format of the graphs.
        precision: Precision of weights and arithmetic.
        images: Folder of images to verify with, None to draw scenes.
        image_count: Largest number of images, None for the default of the model.
        device: Device on which original and artifact are compared.
        threads: Threads of the artifact's session, None for all.
        runtime: The library that the artifact is made for and compared with.
        calibration: Folder of images that give the scales of int8 for OpenVINO, None for those of the comparison.
    """

    out: Path
    format: GraphFormat
    precision: Precision
    images: Path | None
    image_count: int | None
    device: Device
    threads: int | None
    runtime: Runtime
    calibration: Path | None

    @property
    def is_calibrated(self) -> bool:
        """Whether scales are constants from calibration images."""
        return self.precision == "int8" and self.runtime == "openvino"


def export_artifact(load: Callable[[], Original], request: ExportRequest) -> Artifact:
    """Write an artifact, compare it with the original and with the stored reference, and keep it if they agree.

    The original leaves memory before the artifact is loaded.

    Args:
        load: Loads the original; nothing else may refer to it.
        request: Parameters.

    Raises:
        ConfigurationError: They disagree; nothing is kept.
        StorageError: The artifact cannot be written.
    """
    with staged_folder(request.out) as folder, recording() as answers:
        draft = _run_original(load(), request, folder, answers)
        release_memory()
        draft, parity = _agreeing(draft, request, answers)
        manifest = msgspec.structs.replace(draft.manifest, parity=parity, files=_entries(folder))
        (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return msgspec.structs.replace(draft, folder=request.out, manifest=manifest)


def _agreeing(draft: Artifact, request: ExportRequest, answers: Recording) -> tuple[Artifact, Parity]:
    """The draft, or the first of its calibrated ones, that agrees with the original, and the figures."""
    if not request.is_calibrated:
        parity, stored = _compare(draft, request, answers)
        _require_agreement((*parity, stored))
        return draft, parity
    side = draft.manifest.image_side
    pixels = (
        (picture.pixels for picture in answers)
        if request.calibration is None
        else calibration_pixels(request.calibration, side)
    )
    with calibrated(draft, pixels, request.threads) as encoder:
        for draft in encoder.drafts():
            parity, stored = _compare(draft, request, answers)
            if all(figures.passed for figures in (*parity, stored)):
                break
            for figures in (*parity, stored):
                click.echo(report(figures))
    _require_agreement((*parity, stored))
    return draft, parity


def _compare(draft: Artifact, request: ExportRequest, answers: Recording) -> tuple[Parity, ParityFigures]:
    """Compare with the recorded answers, and with the stored ones."""
    session = open_session(draft, device=request.device, threads=request.threads, runtime=request.runtime)
    parity, machine = compare(draft, session, answers), machine_name(session.info.provider)
    return parity, compare_with_reference(draft, session, full_mask, machine=machine)


def _run_original(original: Original, request: ExportRequest, folder: Path, answers: Recording) -> Artifact:
    """Do everything that needs the original: write the files, and record its answers to the pictures."""
    draft = write_files(original, folder, request.format, "fp32" if request.is_calibrated else request.precision)
    draft = msgspec.structs.replace(
        draft, manifest=msgspec.structs.replace(draft.manifest, precision=request.precision)
    )
    click.echo("Running the original on the images of the comparison …")
    prompts, device = draft.manifest.prompts, request.device
    record_reference(original, device, draft.manifest, folder, drawn_pictures(REFERENCE_PICTURES))
    pictures = pictures_of(request.images, request.image_count, is_demo=original.is_demo)
    record(original, device, prompts, pictures, answers)
    click.echo("Comparing with the original …")
    return draft


def write_files(original: Original, folder: Path, graph_format: GraphFormat, precision: Precision) -> Artifact:
    """Write graphs, text features and tokenizer; returns a draft of the artifact without parity figures."""
    write_tokenizer(original.model.backbone.language_backbone.tokenizer, folder / TOKENIZER_NAME)
    text = encode_prompts(original, DEFAULT_PROMPTS)
    np.savez_compressed(folder / TEXT_FEATURES_NAME, features=text.features, mask=text.mask)
    specs = []
    for graph in graphs_of(original.model, precision):
        click.echo(f"Exporting {graph.name} to {graph_format}, {precision} …")
        name = _WRITERS[graph_format](graph, folder, precision)
        specs.append(GraphSpec(file=name, inputs=graph.inputs, outputs=graph.outputs))
        release_memory()
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
        mask_head=specs[2],
        text_encoder=specs[3],
        files=_entries(folder),
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
    return TextFeatures(
        features=np.concatenate([features for features, _ in rows]),
        mask=np.concatenate([mask for _, mask in rows]),
    )


def _require_agreement(parity: Iterable[ParityFigures]) -> None:
    for figures in parity:
        click.echo(report(figures))
        if not figures.passed:
            raise ConfigurationError(
                f"the exported graphs do not agree with the original: {describe(figures)}; allowed is "
                f"{figures.tolerance}. Nothing was kept. Export in another precision, or report this"
            )


def _entries(folder: Path) -> dict[str, FileEntry]:
    return {path.name: file_entry(path) for path in sorted(folder.iterdir())}
