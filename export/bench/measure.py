"""Exports a model for the measurement, measures it beside the original, and compares the answers of both."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import click
import msgspec

from export.bench.cost import figures_at, roofline, run_cost_model
from export.bench.original import measure_original
from export.bench.random_weights import random_original
from export.checkpoint import Original, load_original
from export.exporter import write_files
from export.parity.pictures import drawn_pictures
from export.parity.recording import record, recording
from export.parity.verify import compare
from job.errors import AnnotateError, DeviceError, UsageError, WorkerError
from job.model.artifact import MANIFEST_NAME, ParityFigures, encode_manifest, open_artifact
from job.model.comparison import describe
from job.model.loader import check_gpu, check_runtime, choose_runtime, gpu_answers, open_session
from job.run.options import WorkerOptions
from job.telemetry.logs import set_up_logging
from job.tools.bench.bench import GPU_BATCHES, BenchRequest, run_bench
from job.tools.bench.figures import BenchReport, encode_report
from job.tools.bench.pictures import PICTURE_WH
from job.tools.bench.table import render

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from job.model.artifact import Artifact, Precision
    from job.model.session import Device, RuntimeFlag
    from job.tools.bench.figures import OriginalFigures

logger = logging.getLogger(__name__)

Size = Literal["demo", "full"]
_R = TypeVar("_R")
PARITY_PICTURES = 2


@dataclass(frozen=True, kw_only=True)
class MeasureRequest:
    """Parameters of a measurement.

    Attributes:
        out: Folder of the results.
        device: Device of model and original.
        size: `demo` or `full` (random weights).
        precision: Of the exported model.
        runtime: Library that runs it, `auto` for that of `annotate`.
        threads: CPU threads, None for all.
        images: Images of each measurement of images/s, None for about 10 s.
        picture_wh: Width and height of the pictures, in pixels.
        batch_sizes: On a GPU.
    """

    out: Path
    device: Device
    size: Size
    precision: Precision
    runtime: RuntimeFlag = "auto"
    threads: int | None = None
    images: int | None = None
    picture_wh: tuple[int, int] = PICTURE_WH
    batch_sizes: tuple[int, ...] = GPU_BATCHES

    @property
    def name(self) -> str:
        """Stem of the result files; it has the runtime if that was asked for."""
        asked = "" if self.runtime == "auto" else f"-{self.runtime}"
        return f"{self.size}-{self.precision}-{self.device}{asked}"


class Parity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `NAME.parity.json`: how the answers on the device agree with those of the original."""

    figures: tuple[ParityFigures, ...]


def require_device(device: Device, precision: Precision, runtime: RuntimeFlag) -> None:
    """Check that the device can be measured, before minutes are spent on an export.

    Raises:
        UsageError: The runtime does not run what is exported here in this precision.
        ConfigurationError: The installation does not support the device, or the runtime on it.
        DeviceError: No GPU responds.
    """
    if runtime == "openvino" and precision != "fp32":
        raise UsageError(
            f"--runtime openvino --precision {precision}: only fp32 is measured with it here. Export the model, and "
            "measure it by `sam3-annotate bench --model DIR` or `python -m export.bench.turns`"
        )
    check_runtime(device, "openvino" if runtime == "openvino" else "onnx")
    check_gpu(device, "onnx")
    if device == "cuda" and not gpu_answers():
        raise DeviceError("--device cuda: no NVIDIA GPU answers, see `nvidia-smi`; `make bench` measures the processor")


def measure(request: MeasureRequest) -> BenchReport:
    """Export, measure, compare, and write `NAME.json`, `NAME.parity.json` and `NAME.md` into the folder.

    Raises:
        UsageError: The runtime does not run this precision.
        ConfigurationError: The installation or the memory limit does not allow this model.
        DeviceError: The device failed.
        WorkerError: The model was measured, and the comparison or the original failed.
    """
    require_device(request.device, request.precision, request.runtime)
    began_s = time.monotonic()
    original = load_original("demo") if request.size == "demo" else random_original()
    artifact = _export(original, request)
    runtime = choose_runtime(request.runtime, request.device, artifact.manifest)
    _log(began_s, f"exported; runtime {runtime.runtime}, because {runtime.reason}")
    bench = BenchRequest(
        artifact=artifact,
        options=WorkerOptions(device=request.device, runtime=runtime.runtime, threads=request.threads),
        prompts=artifact.manifest.prompts,
        picture_wh=request.picture_wh,
        batch_sizes=request.batch_sizes if request.device == "cuda" else (1,),
        images=request.images,
    )
    report = _run_in_own_process(bench)
    _write(request, report)
    _log(began_s, "measured")
    steps = _Steps()
    parity = steps.take("the comparison with the original", lambda: _compare(original, bench))
    if parity is not None:
        _file(request, "parity.json").write_bytes(msgspec.json.format(msgspec.json.encode(parity)))
    _log(began_s, "compared")
    eager = steps.take("the measurement of the original", lambda: _eager(original, bench))
    report = _with_prediction(msgspec.structs.replace(report, original=eager), bench)
    _log(began_s, "measured the original")
    _write(request, report)
    click.echo(render(report))
    steps.raise_failed()
    return report


class _Steps:
    """Steps of which one may fail and the rest is still worth having."""

    def __init__(self) -> None:
        self._failed: list[str] = []

    def take(self, name: str, step: Callable[[], _R]) -> _R | None:
        """Take a step; None if it failed."""
        try:
            return step()
        except (AnnotateError, RuntimeError, ValueError, AssertionError, TypeError) as exc:
            logger.warning("%s failed", name, exc_info=not isinstance(exc, AnnotateError))
            self._failed.append(f"{name}: {exc}")
            return None

    def raise_failed(self) -> None:
        """Report the steps that failed.

        Raises:
            WorkerError: There are some.
        """
        if self._failed:
            raise WorkerError(f"the figures of the model are written, and this failed: {'; '.join(self._failed)}")


def _export(original: Original, request: MeasureRequest) -> Artifact:
    folder = request.out / f"model-{request.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    draft = write_files(original, folder, "onnx", request.precision)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(draft.manifest))
    return open_artifact(folder)


def _run_in_own_process(bench: BenchRequest) -> BenchReport:
    """Measure without torch and the original in the same memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=set_up_logging, initargs=("INFO", "text")) as process:
        return process.submit(run_bench, bench).result()


def _compare(original: Original, bench: BenchRequest) -> Parity:
    options, artifact = bench.options, bench.artifact
    with recording() as answers:
        pictures = drawn_pictures(PARITY_PICTURES)
        record(original, _device_of_torch(options.device), artifact.manifest.prompts, pictures, answers)
        session = open_session(
            artifact, device=options.device, batch_size=1, threads=options.threads, runtime=options.runtime
        )
        figures = compare(artifact, session, answers)
    for each in figures:
        click.echo(describe(each))
    return Parity(figures=figures)


def _eager(original: Original, bench: BenchRequest) -> OriginalFigures | None:
    if _device_of_torch(bench.options.device) != bench.options.device:
        click.echo("Eager sam3 is not measured: this installation of torch has no CUDA")
        return None
    return measure_original(original, bench)


def _device_of_torch(device: Device) -> Device:
    """The device of the original: a CPU where torch has no CUDA."""
    import torch

    return device if device == "cpu" or torch.cuda.is_available() else "cpu"


def _with_prediction(report: BenchReport, bench: BenchRequest) -> BenchReport:
    if not report.machine.gpu:
        return report
    figures = figures_at(report)
    costs = run_cost_model(bench.artifact.folder, figures.batch_size, len(bench.prompts))
    if isinstance(costs, str):
        click.echo(f"No prediction: {costs}")
        return report
    return msgspec.structs.replace(report, roofline=roofline(costs, report.machine.gpu, figures))


def _write(request: MeasureRequest, report: BenchReport) -> None:
    _file(request, "json").write_bytes(encode_report(report))
    _file(request, "md").write_text(render(report), encoding="utf-8")


def _file(request: MeasureRequest, suffix: str) -> Path:
    return request.out / f"{request.name}.{suffix}"


def _log(began_s: float, what: str) -> None:
    click.echo(f"[{time.monotonic() - began_s:.0f} s] {what}")
