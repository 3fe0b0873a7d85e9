"""`python -m export.bench`: what `make bench` and `make bench-gpu` run."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from job.errors import AnnotateError

if TYPE_CHECKING:
    from export.bench.measure import Size
    from job.model.artifact import Precision

# torch's threads sleep while they wait: spinning made two of them six times slower next to other programs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), required=True, help="Device of model and original.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the results.")
@click.option(
    "--size",
    "sizes",
    type=click.Choice(["demo", "full"]),
    multiple=True,
    help="Models to measure; repeatable. Default: full on a GPU, both on a CPU.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Default: fp16 on a GPU, fp32 on a CPU.",
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "onnx", "openvino"]),
    default="auto",
    show_default=True,
    help="Library that runs the model; auto chooses as `annotate` does, openvino runs fp32.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads. Default: all.")
@click.option("--images", type=click.IntRange(1), help="Images for images/s. Default: as many as take about 10 s.")
def main(device: Any, out: Path, sizes: tuple[Size, ...], precision: Any, **rest: Any) -> None:
    """Export models, measure them beside eager sam3, and compare the answers of both."""
    from export.bench.measure import MeasureRequest, measure, require_device
    from job.telemetry.logs import set_up_logging

    set_up_logging("WARNING", "text")
    logging.getLogger("job").setLevel(logging.INFO)  # torch's exporter logs hundreds of lines
    try:
        chosen: Precision = precision or ("fp16" if device == "cuda" else "fp32")
        require_device(device, chosen, rest["runtime"])
        out.mkdir(parents=True, exist_ok=True)
        for size in sizes or (("full",) if device == "cuda" else ("demo", "full")):
            measure(MeasureRequest(out=out, device=device, size=size, precision=chosen, **rest))
    except AnnotateError as exc:
        click.echo(f"Error: {exc}", err=True)
        raise SystemExit(exc.exit_code) from exc


if __name__ == "__main__":
    main()
