"""`sam3-annotate export` and `sam3-annotate verify`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from job.cli.flags import FILE, FOLDER
from job.errors import UsageError, WorkerError
from job.model.artifact import open_artifact
from job.model.gpu import unusable_device_is_configuration
from job.model.loader import (
    check_gpu,
    check_runtime,
    default_device,
    explained,
    open_session,
    require_instructions,
    runtime_of,
)
from job.redaction import redact
from job.storage.store import refusals_are_configuration

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.parity.recording import Recording
    from job.model.artifact import Artifact, GraphFormat, ParityFigures, Precision
    from job.model.session import Device, Runtime, Session

_DEFAULT_PRECISION: dict[Device, Precision] = {"cuda": "fp16", "cpu": "fp32"}

# torch's threads sleep while they wait: spinning made two of them six times slower next to other programs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _verification_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--images",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Folder of images to compare on. Default: drawn scenes.",
        ),
        click.option(
            "--image_count",
            type=click.IntRange(1),
            help="Images to compare on. Default: 6, 60 for the demo model.",
        ),
        click.option("--device", type=click.Choice(["cuda", "cpu"]), help="Default: cuda if there is one, else cpu."),
        click.option("--threads", type=click.IntRange(1), help="CPU threads of the model. Default: all."),
    ):
        command = option(command)
    return command


@click.command()
@click.option(
    "--checkpoint",
    type=FILE,
    required=True,
    help="Path or URL of sam3.pt or sam3.1_multiplex.pt; `hub` or `hub:facebook/sam3.1` to download SAM 3 or SAM 3.1; "
    "or `demo` for the demo model.",
)
@click.option("--out", type=FOLDER, required=True, help="Folder or URL of the model.")
@click.option("--format", "graph_format", type=click.Choice(["onnx", "torchscript"]), default="onnx", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16", "int8"]),
    help="Precision of weights and arithmetic; bf16 is for OpenVINO on CPUs with AVX512-BF16 or AMX. Default: fp16 for "
    "cuda, fp32 for cpu.",
)
@click.option(
    "--runtime",
    type=click.Choice(["onnx", "openvino"]),
    help="Library that runs the ONNX graphs. int8 for openvino has constant scales and needs a CPU with VNNI or AMX. "
    "Default: onnx, openvino for bf16.",
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of images that give the scales of --precision int8 --runtime openvino, at most 300. Default: those of "
    "the comparison.",
)
@_verification_options
@unusable_device_is_configuration(is_indexed=False)
def export(checkpoint: str, out: str, graph_format: Any, precision: Any, **flags: Any) -> None:
    """Export a SAM 3 checkpoint to a model that `annotate` runs, and verify that both agree."""
    _check_flags(graph_format, precision, flags)
    from export.checkpoint import load_original
    from export.exporter import ExportRequest, export_artifact
    from export.locations import local_checkpoint, local_output

    runtime = flags["runtime"] or runtime_of(graph_format, precision)
    device = _device(flags["device"], runtime, precision)
    precision = precision or _DEFAULT_PRECISION[device]
    _check_device(device, runtime, precision)
    with (
        refusals_are_configuration(is_planner=True),
        local_output(out) as folder,
        local_checkpoint(checkpoint) as path,
    ):
        request = ExportRequest(
            out=folder,
            format=graph_format,
            precision=precision,
            images=flags["images"],
            image_count=flags["image_count"],
            device=device,
            threads=flags["threads"],
            runtime=runtime,
            calibration=flags["calibration"],
        )
        export_artifact(partial(load_original, path), request)
        written = open_artifact(folder)
    megabytes = sum(entry.size for entry in written.manifest.files.values()) / 1e6
    click.echo(f"{redact(out)}: {written.manifest.model_id}, {graph_format} {precision}, {megabytes:.1f} MB")
    click.echo(f"--model {redact(out)} --model_digest {written.digest}")


def _check_flags(graph_format: GraphFormat, precision: Precision | None, flags: dict[str, Any]) -> None:
    runtime = flags["runtime"]
    if graph_format == "torchscript" and precision in {"int8", "bf16"}:
        raise UsageError(f"--precision {precision} is made of ONNX graphs: give --format onnx, or another precision")
    if graph_format == "torchscript" and runtime is not None:
        raise UsageError(f"--runtime {runtime} runs ONNX graphs: give --format onnx, or no --runtime")
    if (runtime, precision) in {("onnx", "bf16"), ("openvino", "fp16")}:
        raise UsageError(f"--runtime {runtime} does not run --precision {precision}: leave out one of them")
    if flags["calibration"] is not None and (runtime, precision) != ("openvino", "int8"):
        raise UsageError("--calibration is for --precision int8 --runtime openvino: give both, or leave it out")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    type=FILE,
    help="Checkpoint to compare with (see `export`). Default: the reference answers stored in the model.",
)
@click.option("--model_digest", help="sha256 of the model's manifest.json; required for TorchScript.")
@_verification_options
@unusable_device_is_configuration(is_indexed=False)
def verify(folder: Path, checkpoint: str | None, model_digest: str | None, **verification: Any) -> None:
    """Verify that a model gives the original's answers on this machine."""
    artifact = open_artifact(folder, model_digest)
    device = _device(verification["device"], _runtime(artifact), artifact.manifest.precision)
    figures = (
        _verify_stored(artifact, device, verification)
        if checkpoint is None
        else _verify_original(artifact, checkpoint, device, verification)
    )
    from job.model.comparison import report

    for each in figures:
        click.echo(report(each))
    if not all(each.passed for each in figures):
        raise WorkerError(
            f"model {folder} does not give the original's answers on this machine's {device}: see the figures above. "
            "Use another machine, or an artifact of another precision"
        )


def _verify_stored(artifact: Artifact, device: Device, flags: dict[str, Any]) -> tuple[ParityFigures, ...]:
    if flags["images"] is not None:
        raise UsageError("--images needs --checkpoint: without the original there is nothing to compare them with")
    from export.parity.machine import machine_name
    from job.model.self_check import compare_with_reference
    from job.postprocess.masks import full_mask

    session = _session(artifact, device, flags["threads"])
    return (compare_with_reference(artifact, session, full_mask, machine=machine_name(session.info.provider)),)


def _verify_original(
    artifact: Artifact, checkpoint: str, device: Device, flags: dict[str, Any]
) -> tuple[ParityFigures, ...]:
    from export.locations import local_checkpoint
    from export.parity.recording import recording, release_memory
    from export.parity.verify import compare

    _check_device(device, _runtime(artifact), artifact.manifest.precision)
    with recording() as answers:
        with refusals_are_configuration(is_planner=True), local_checkpoint(checkpoint) as path:
            _record_original(path, artifact, device, flags, answers)
        release_memory()
        return compare(artifact, _session(artifact, device, flags["threads"]), answers)


def _record_original(
    checkpoint: str, artifact: Artifact, device: Device, flags: dict[str, Any], answers: Recording
) -> None:
    """Store the original's answers; the original leaves memory when this returns."""
    from export.checkpoint import load_original
    from export.parity.pictures import pictures_of
    from export.parity.recording import record

    original = load_original(checkpoint)
    if original.checkpoint_sha256 != artifact.manifest.checkpoint_sha256:
        raise UsageError(
            f"{artifact.folder} was made from the checkpoint {artifact.manifest.checkpoint_sha256}, "
            f"--checkpoint {checkpoint} is {original.checkpoint_sha256}: give the one it was made from"
        )
    pictures = pictures_of(flags["images"], flags["image_count"], is_demo=original.is_demo)
    record(original, device, artifact.manifest.prompts, pictures, answers)


def _session(artifact: Artifact, device: Device, threads: int | None) -> Session:
    return open_session(artifact, device=device, batch_size=1, threads=threads, runtime=_runtime(artifact))


def _runtime(artifact: Artifact) -> Runtime:
    manifest = artifact.manifest
    return runtime_of(manifest.format, manifest.precision, manifest.quantization)


def _device(wanted: Device | None, runtime: Runtime, precision: Precision | None) -> Device:
    if wanted is not None:
        return wanted
    if precision in {"int8", "bf16"}:
        return "cpu"
    choice = default_device(runtime)
    click.echo(f"No --device given: {choice.device} because {choice.reason}")
    return choice.device


def _check_device(device: Device, runtime: Runtime, precision: Precision) -> None:
    """Check early that torch (for the original) and the artifact's runtime support the device."""
    from job.model.torch_session import check_device

    check_runtime(device, runtime)
    if runtime == "openvino":
        require_instructions("the artifact", precision)
    check_gpu(device, runtime)
    with explained(device, "torch"):
        check_device(device)
