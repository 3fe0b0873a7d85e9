"""Times the image encoder by every runtime that this machine has: `python -m tests.gpu.routes.measure --device cuda`.

ONNX Runtime's CUDA provider, its TensorRT provider and AOTInductor run the same module with the same pixels, and are
compared with the eager module. The encoder takes most of an image's time. On a CPU it runs the demo model in float32,
which shows that the comparison works and says nothing about a GPU.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch

from tests.gpu.report import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.graphs.graphs import Graph

PROVIDERS = {"cpu": {"onnxruntime": "CPUExecutionProvider"}}
PROVIDERS["cuda"] = {"onnxruntime": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_WARM_UP = 3


@dataclass(frozen=True)
class Measured:
    """One runtime: seconds until it could run, median milliseconds an image, and the largest relative error."""

    runtime: str
    prepare_s: float
    ms: float
    error: float


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--batch", default=4, show_default=True, help="Images a call.")
@click.option("--runs", default=20, show_default=True, help="Timed calls; the median counts.")
def main(device: str, batch: int, runs: int) -> None:
    """Measure the image encoder by ONNX Runtime, TensorRT and AOTInductor."""
    found = measure(device, batch, runs)
    rows = [[x.runtime, f"{x.prepare_s:.0f}", f"{x.ms:.2f}", f"{x.error:.1e}"] for x in found]
    sys.stdout.write(table([["runtime", "prepared in, s", "ms an image", "relative error"], *rows]) + "\n")


def measure(device: str, batch: int, runs: int) -> list[Measured]:
    """Measure every runtime that is installed."""
    import onnxruntime as ort

    graph = _encoder(device)
    torch.manual_seed(0)
    pixels = torch.randint(0, 255, (batch, *graph.examples()[0].shape[1:]), dtype=torch.uint8, device=device)
    with torch.no_grad():
        eager = [x.float().cpu() for x in graph.module(pixels)]
    routes: dict[str, Callable[[Path], Callable[[], Any]]] = {
        name: lambda folder, provider=provider: _onnx_route(graph, pixels, provider, folder)  # type: ignore[misc]
        for name, provider in PROVIDERS[device].items()
        if provider in ort.get_available_providers()
    }
    routes["inductor"] = lambda folder: _inductor_route(graph, pixels, folder)
    with tempfile.TemporaryDirectory() as scratch:
        return [_measured(name, prepare, Path(scratch), eager, runs) for name, prepare in routes.items()]


def _encoder(device: str) -> Graph:
    from export.bench.random_weights import random_original
    from export.checkpoint import load_original
    from export.graphs.graphs import graphs_of
    from export.sam3_runtime import quiet

    with quiet():
        original = load_original("demo") if device == "cpu" else random_original()
    graph = graphs_of(original.model, "fp32" if device == "cpu" else "fp16")[0]
    graph.module.to(device)
    return graph


def _onnx_route(graph: Graph, pixels: torch.Tensor, provider: str, folder: Path) -> Callable[[], Any]:
    import onnxruntime as ort

    from export.graphs.onnx_writer import write_onnx
    from job.model.onnx_session import CUDA_OPTIONS, session_options

    device = pixels.device.type
    graph.module.cpu()
    path = folder / write_onnx(graph, folder, "fp32" if device == "cpu" else "fp16")
    graph.module.to(device)
    options = CUDA_OPTIONS if provider == PROVIDERS["cuda"]["onnxruntime"] else {}
    session = ort.InferenceSession(str(path), session_options(2), providers=[(provider, options)], enable_fallback=0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(graph.inputs[0].name, ort.OrtValue.ortvalue_from_numpy(pixels.cpu().numpy(), device))
    for x in graph.outputs:
        binding.bind_output(x.name, device)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return lambda: [torch.from_numpy(x) for x in binding.copy_outputs_to_cpu()]

    return run


def _inductor_route(graph: Graph, pixels: torch.Tensor, folder: Path) -> Callable[[], Any]:
    with torch.no_grad():
        program = torch.export.export(graph.module, (pixels,))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "encoder.pt2"))
    compiled = torch._inductor.aoti_load_package(package)

    def run() -> Any:
        found = compiled(pixels)
        if pixels.is_cuda:
            torch.cuda.synchronize()
        return lambda: [x.float().cpu() for x in found]

    return run


def _measured(
    name: str, prepare: Callable[[Path], Callable[[], Any]], folder: Path, eager: list[torch.Tensor], runs: int
) -> Measured:
    started = time.perf_counter()
    run = prepare(folder)
    found = run()()
    prepared = time.perf_counter() - started
    error = max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in zip(found, eager, strict=True))
    for _ in range(_WARM_UP):
        run()
    spent = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        spent.append(time.perf_counter() - started)
    return Measured(name, prepared, 1e3 * statistics.median(spent) / len(eager[0]), error)


if __name__ == "__main__":
    main()
