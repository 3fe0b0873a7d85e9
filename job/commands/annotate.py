"""`sam3-annotate annotate`: flags to a request."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from job.annotating import Request, list_planned
from job.annotating import annotate as annotate_request
from job.artifact import Artifact, open_artifact
from job.errors import AnnotateError, TooManyFailedError, UsageError
from job.instances import PASSENGER, class_name_of
from job.logs import set_up_logging
from job.options import Device, Runtime, WorkerOptions, new_attempt
from job.progress import Tally, log_summary
from job.run import RunSpec
from job.sessions import default_device
from job.store import Store, open_store

logger = logging.getLogger(__name__)

DEFAULT_PROMPTS = "car,license plate,person"
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class ByteSize(click.ParamType[int]):
    """A number of bytes, with K, M or G for powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """`4G` to 4294967296."""
        text = str(value).strip().lower().removesuffix("ib").removesuffix("b")
        number, unit = (text[:-1], text[-1:]) if text[-1:] in "kmg" and text else (text, "")
        if not number.isdigit() or int(number) == 0:
            self.fail(f"{value!r} is not a number of bytes such as 500M or 4G", param, ctx)
        return int(number) * _SIZE_UNITS[unit]


def _original_flags(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(
        (
            click.option(
                "--input_top_dir", required=True, help="Folder with JSON and image files; walked recursively."
            ),
            click.option("--out_top_dir", required=True, help="Folder for the results; keeps the input's structure."),
            click.option("--override_previous_annotations", is_flag=True, help="Annotate again what is annotated."),
            click.option(
                "--device", type=click.Choice(["cuda", "cpu"]), help="Default: cuda if there is one, else cpu."
            ),
            click.option(
                "--log_level",
                type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
                default="INFO",
                show_default=True,
                help="Logging verbosity.",
            ),
        )
    ):
        command = decorate(command)
    return command


def _model_flags(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(
        (
            click.option("--model", help="Folder of an exported model. Default: the embedded demo model, a toy."),
            click.option("--model_digest", help="sha256 of the model's manifest.json: refuse any other."),
            click.option("--prompts", default=DEFAULT_PROMPTS, show_default=True, help="What to find, in order."),
            click.option(
                "--confidence_threshold",
                type=click.FloatRange(0, 1),
                default=0.4,
                show_default=True,
                help="Keep instances with a higher score.",
            ),
            click.option(
                "--runtime",
                type=click.Choice(["onnx", "torch"]),
                default="onnx",
                show_default=True,
                help="What runs the model.",
            ),
            click.option("--batch_size", type=click.IntRange(1), help="GPU: images a call. CPU: images in flight."),
            click.option("--threads", type=click.IntRange(1), help="CPU threads of the model. Default: all."),
        )
    ):
        command = decorate(command)
    return command


def _selection_flags(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(
        (
            click.option("--limit", type=click.IntRange(1), help="Only the first so many of what is to do."),
            click.option("--annotation_date", help="Date in the annotations, YYYY-MM-DD. Default: today in UTC."),
            click.option(
                "--run", "run_name", help="Name of the run. Default: continue the unfinished one, else by time."
            ),
            click.option(
                "--image_mode",
                type=click.Choice(["copy", "none"]),
                default="copy",
                show_default=True,
                help="Whether images go into the output.",
            ),
            click.option(
                "--max_image_pixels",
                type=click.IntRange(1),
                default=100_000_000,
                show_default=True,
                help="Larger images are failed inputs.",
            ),
            click.option(
                "--override_reviewed", is_flag=True, help="Replace annotations that a person has reviewed too."
            ),
            click.option("--supersede", is_flag=True, help="End an older run of this output even if it is at work."),
        )
    ):
        command = decorate(command)
    return command


def _conduct_flags(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(
        (
            click.option(
                "--max_failed_fraction",
                type=click.FloatRange(0, 1),
                default=0.05,
                show_default=True,
                help="More failed inputs than this fraction: exit code 65.",
            ),
            click.option(
                "--image_timeout_s",
                type=click.FloatRange(1),
                default=600.0,
                show_default=True,
                help="An image that takes longer ends the process.",
            ),
            click.option(
                "--memory_budget",
                type=ByteSize(),
                help="For images on their way, as in 4G. Default: 60 % of what is left.",
            ),
            click.option(
                "--journal_interval_s",
                type=click.FloatRange(0.1),
                default=30.0,
                show_default=True,
                help="A kill costs at most this much work.",
            ),
            click.option("--visualize", is_flag=True, help="Draw overlays into _sam3/overlays/ of the output."),
            click.option("--dry_run", is_flag=True, help="List what would be done and change nothing."),
            click.option(
                "--log_format",
                type=click.Choice(["text", "json"]),
                default="text",
                show_default=True,
                help="json: one object a line.",
            ),
        )
    ):
        command = decorate(command)
    return command


@click.command()
@_original_flags
@_model_flags
@_selection_flags
@_conduct_flags
def annotate(**flags: Any) -> None:
    """Annotate a folder of images, each with a JSON of metadata."""
    set_up_logging(flags["log_level"], flags["log_format"])
    attempt = new_attempt()
    source, target = open_folders(flags["input_top_dir"], flags["out_top_dir"], attempt)
    logger.info("Input directory: %s", flags["input_top_dir"])
    logger.info("Output directory: %s", flags["out_top_dir"])
    request = _request(flags, source, target, attempt)
    if flags["dry_run"]:
        for key in list_planned(request):
            click.echo(key)
        return
    tally = Tally()
    try:
        is_complete = annotate_request(request, tally) is not None
    except AnnotateError as exc:
        if tally.is_begun:
            log_summary(tally, is_complete=isinstance(exc, TooManyFailedError))
        raise
    finally:
        target.close()
    log_summary(tally, is_complete=is_complete)


def open_folders(input_url: str, output_url: str, attempt: str) -> tuple[Store, Store]:
    """Open input and output.

    Raises:
        UsageError: No such input, or one lies inside the other.
    """
    source, target = open_store(input_url, attempt), open_store(output_url, attempt)
    if not source.exists():
        raise UsageError(f"no such input folder: {input_url}. Give the folder with the JSON and image files")
    inner, outer = f"{target.url}/", f"{source.url}/"
    if inner == outer or inner.startswith(outer) or outer.startswith(inner):
        raise UsageError(
            f"output {target.url} and input {source.url} are one folder, or one lies inside the other: "
            "give an output folder outside of the input"
        )
    return source, target


def parse_prompts(text: str) -> tuple[str, ...]:
    """`car,license plate` to a tuple.

    Raises:
        UsageError: A prompt is empty, there twice, or `passenger`.
    """
    prompts = tuple(" ".join(part.split()) for part in text.split(","))
    names = [class_name_of(prompt) for prompt in prompts]
    if "" in names:
        raise UsageError(f"--prompts {text!r} has an empty prompt: give names with commas between them")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"--prompts {text!r} names {', '.join(twice)} twice: give each class once")
    if PASSENGER in names:
        raise UsageError(
            f"--prompts {text!r}: passenger is not a prompt, it is what a person in a car becomes. Give car and person"
        )
    return prompts


def _request(flags: dict[str, Any], source: Store, target: Store, attempt: str) -> Request:
    prompts = parse_prompts(flags["prompts"])
    date_text = _annotation_date(flags["annotation_date"])
    artifact = _artifact(flags["model"], flags["model_digest"])
    spec = RunSpec(
        input_url=source.url,
        prompts=prompts,
        confidence_threshold=flags["confidence_threshold"],
        annotation_date=date_text,
        image_mode=flags["image_mode"],
        override=flags["override_previous_annotations"],
        override_reviewed=flags["override_reviewed"],
        max_image_pixels=flags["max_image_pixels"],
        limit=flags["limit"],
        model_id=artifact.manifest.model_id,
        checkpoint_sha256=artifact.manifest.checkpoint_sha256,
    )
    names = (
        "runtime",
        "batch_size",
        "threads",
        "memory_budget",
        "journal_interval_s",
        "image_timeout_s",
        "max_failed_fraction",
    )
    options = WorkerOptions(
        device=_device(flags["device"], flags["runtime"]),
        supersede=flags["supersede"],
        visualize=flags["visualize"],
        attempt=attempt,
        **{name: flags[name] for name in names},
    )
    return Request(
        source=source,
        target=target,
        artifact=artifact,
        spec=spec,
        is_date_given=flags["annotation_date"] is not None,
        run_name=flags["run_name"],
        options=options,
    )


def _device(wanted: Device | None, runtime: Runtime) -> Device:
    if wanted is not None:
        logger.info("Device: %s", wanted)
        return wanted
    choice = default_device(runtime)
    logger.info("Device: %s", choice.device)
    logger.info("No --device given: %s, because %s", choice.device, choice.reason)
    return choice.device


def _artifact(folder: str | None, digest: str | None) -> Artifact:
    if folder is not None:
        return open_artifact(Path(folder), digest)
    embedded = Path(os.fspath(files("job") / "demo_artifact"))  # type: ignore[call-overload]
    logger.warning(
        "No --model given: using the embedded demo model, a toy that shows the software and not SAM 3's quality "
        "(see the README on exporting the official weights)"
    )
    return open_artifact(embedded, digest)


def _annotation_date(text: str | None) -> str:
    if text is None:
        return datetime.now(UTC).date().isoformat()
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as exc:
        raise UsageError(f"--annotation_date {text!r} is not a date: give it as YYYY-MM-DD") from exc
