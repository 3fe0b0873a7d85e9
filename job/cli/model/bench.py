"""`sam3-annotate bench`."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from job.cli import flags as groups
from job.cli.requests import open_model
from job.errors import ConfigurationError, UsageError
from job.model.gpu import unusable_device_is_configuration
from job.model.loader import check_gpu, choose_runtime, default_device
from job.rules.requested import parse_prompts
from job.run.options import WorkerOptions
from job.telemetry.logs import set_up_logging

if TYPE_CHECKING:
    from job.tools.bench.bench import BenchRequest

ORIGINAL_GROUP = "sam3_annotate.bench_original"


class PictureSize(click.ParamType[tuple[int, int]]):
    """Width and height in pixels, as in 1920x1080."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """`1920x1080` to (1920, 1080)."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) >= 64 for part in parts):
            self.fail(f"{value!r} is not a size of at least 64x64 pixels, such as 1920x1080", param, ctx)
        return int(parts[0]), int(parts[1])


@click.command()
@click.option("--model", type=groups.FOLDER, help="Folder or URL of an exported model. Default: the demo model.")
@click.option("--model_digest", help="Required sha256 of the model's manifest.json.")
@click.option("--prompts", default=groups.DEFAULT_PROMPTS, show_default=True, help="Classes, separated by commas.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="Default: cuda if there is one, else cpu.")
@groups.runtime_flag
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the model. Default: all.")
@click.option(
    "--batch_size",
    "batch_sizes",
    type=click.IntRange(1),
    multiple=True,
    help="GPU: images per call; repeatable. Default: 1, 2, 4, 8 and 16.",
)
@click.option(
    "--picture_size",
    type=PictureSize(),
    default="1920x1080",
    show_default=True,
    help="Size of the synthetic JPEG pictures.",
)
@click.option("--images", type=click.IntRange(1), help="Images for images/s. Default: as many as take about 10 s.")
@click.option(
    "--original",
    type=groups.FILE,
    help="Also measure eager sam3 with this checkpoint: a path, `demo`, or `random` for full size without weights.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
@unusable_device_is_configuration(is_indexed=False)
def bench(**flags: Any) -> None:
    """Measure a model on this machine: milliseconds by stage, images/s from files to masks, memory."""
    set_up_logging("INFO", "text")
    request = _request(flags)
    measure_original = None if flags["original"] is None else load_original_bench()
    from job.tools.bench.bench import run_bench
    from job.tools.bench.figures import encode_report
    from job.tools.bench.table import render

    check_gpu(request.options.device, request.options.runtime)
    report = run_bench(request)
    try:
        if measure_original is not None:
            found = measure_original(flags["original"], request)
            report = msgspec.structs.replace(report, original=found)
    finally:  # minutes of work are kept when the original cannot be measured
        click.echo(render(report), nl=False)
        _write(flags["json_file"], encode_report(report))


def load_original_bench() -> Any:
    """The function that measures eager sam3; the exporter provides it, because it needs torch.

    Raises:
        ConfigurationError: No package provides it.
    """
    found = list(entry_points(group=ORIGINAL_GROUP))
    if not found:
        raise ConfigurationError("--original needs the exporter: pip install 'sam3-annotate[export]'")
    return found[0].load()


def _request(flags: dict[str, Any]) -> BenchRequest:
    from job.tools.bench.bench import GPU_BATCHES, BenchRequest

    artifact, remote = open_model({**flags, "model_cache": None, "checkpoint_digest": None})
    if remote is not None:
        remote.fetch()
    device = flags["device"] or default_device(flags["runtime"]).device
    runtime = choose_runtime(flags["runtime"], device, artifact.manifest).runtime
    if device == "cpu" and flags["batch_sizes"]:
        raise UsageError("--batch_size: on a CPU a call of the model takes one image. Leave it out, or give a GPU")
    return BenchRequest(
        artifact=artifact,
        options=WorkerOptions(device=device, runtime=runtime, threads=flags["threads"]),
        prompts=parse_prompts([flags["prompts"]]),
        picture_wh=flags["picture_size"],
        batch_sizes=flags["batch_sizes"] or (GPU_BATCHES if device == "cuda" else (1,)),
        images=flags["images"],
    )


def _write(path: Path | None, data: bytes) -> None:
    if path is None:
        return
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise UsageError(
            f"--json {path} cannot be written: {exc.strerror}. Give a file in a folder that exists"
        ) from exc
