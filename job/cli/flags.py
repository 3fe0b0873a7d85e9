"""Flags that several commands share, in groups."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Command = Callable[..., None]

DEFAULT_PROMPTS = "car,license plate,person"
"""Of `--help`; equal to `job.rules.requested.DEFAULT_PROMPTS`, which imports too much."""
DEFAULT_MAX_CANDIDATES = 100
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class ByteSize(click.ParamType[int]):
    """A number of bytes, with K, M or G, or Ki, Mi or Gi, for powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """`4G` to 4294967296."""
        match = re.fullmatch(r"0*([1-9][0-9]*)\s*(?:([kmg])i?)?b?", str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is not a number of bytes such as 500M, 4G or 4Gi", param, ctx)
        return int(match[1]) * _SIZE_UNITS[match[2] or ""]


class Location(click.ParamType[str]):
    """A local path or a URL; the shell completes paths and leaves URLs as they are."""

    name = "path"

    def __init__(self, kind: Literal["dir", "file"]) -> None:
        self._kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        """Ask the shell for folders or files; for a URL for nothing."""
        from click.shell_completion import CompletionItem

        return [] if "://" in incomplete else [CompletionItem(incomplete, type=self._kind)]


FOLDER, FILE = Location("dir"), Location("file")


class OverlayCount(click.ParamType[int | str]):
    """A number of images from 1, or all."""

    name = "number or all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """`20` to 20; `all` stays."""
        text = str(value).strip().lower()
        if text == "all":
            return text
        if not text.isdecimal() or int(text) == 0:
            self.fail(f"{value!r} is neither a number of images from 1 nor all", param, ctx)
        return int(text)


def _group(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


folder_flags = _group(
    click.option(
        "--input_top_dir",
        type=FOLDER,
        required=True,
        help="Folder or URL with JSON and image files; listed recursively.",
    ),
    click.option(
        "--out_top_dir",
        type=FOLDER,
        required=True,
        help="Folder or URL for the results; keeps the input's structure.",
    ),
    click.option(
        "--input_storage_options", type=FILE, help="JSON file of fsspec options for the input: keys, endpoint, …"
    ),
    click.option("--output_storage_options", type=FILE, help="JSON file of fsspec options for the output."),
)

log_flags = _group(
    click.option(
        "--log_level",
        type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
        default="INFO",
        show_default=True,
        help="Logging verbosity.",
    ),
    click.option(
        "--log_format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="json: one object per line.",
    ),
)

fail_if_empty_flag = click.option(
    "--fail_if_empty", is_flag=True, help="Exit with 65 if the input has no JSON files. Default: a warning and 0."
)

missing_json_flag = click.option(
    "--missing_json",
    type=click.Choice(["skip", "create"]),
    default="skip",
    show_default=True,
    help="create: an image without a JSON is an input too; its output gets a minimal JSON.",
)

model_flags = _group(
    click.option("--model", type=FOLDER, help="Folder or URL of an exported model. Default: the embedded demo model."),
    click.option(
        "--model_cache", type=FOLDER, help="Folder for downloaded models. Default: ~/.cache/sam3-annotate/models."
    ),
    click.option("--model_digest", help="Required sha256 of the model's manifest.json."),
    click.option("--checkpoint_digest", help="Required sha256 of the checkpoint that the model was exported from."),
    click.option(
        "--prompts",
        multiple=True,
        show_default=DEFAULT_PROMPTS,
        help="Classes to find, in order, with commas between; repeatable.",
    ),
    click.option(
        "--classes",
        type=FILE,
        help="YAML file or URL of own classes, used instead of --prompts: prompts, thresholds, colours, rules.",
    ),
    click.option(
        "--confidence_threshold",
        type=click.FloatRange(0, 1),
        default=0.4,
        show_default=True,
        help="Keep instances with a higher score.",
    ),
)

selection_flags = _group(
    click.option("--override_previous_annotations", is_flag=True, help="Annotate inputs again that have annotations."),
    click.option("--override_reviewed", is_flag=True, help="Also replace annotations that a person reviewed."),
    click.option(
        "--include", multiple=True, help="Only JSON keys that match this glob (`*` matches `/` too); repeatable."
    ),
    click.option("--exclude", multiple=True, help="Skip JSON keys that match this glob; repeatable."),
    click.option(
        "--input_list",
        type=FILE,
        help="File or URL of JSON keys, one per line, used instead of a listing of the input.",
    ),
    click.option(
        "--input_list_column", help="The list is a CSV file (S3 inventory): name or number of its key column."
    ),
    click.option("--limit", type=click.IntRange(1), help="Only the first N inputs that are not done."),
    missing_json_flag,
    click.option("--annotation_date", help="Date in the annotations, YYYY-MM-DD. Default: today in UTC."),
    click.option(
        "--image_mode",
        type=click.Choice(["copy", "none"]),
        default="copy",
        show_default=True,
        help="copy: copy images into the output.",
    ),
    click.option(
        "--instances",
        type=click.Choice(["table", "none"]),
        default="table",
        show_default=True,
        help="table: store every instance with its whole mask in the run's folder.",
    ),
    click.option(
        "--candidates_threshold",
        type=click.FloatRange(0, 1),
        help="Also store instances with a lower score, above this one, and those that the overlap rule drops, in the "
        "instance table. Default: off.",
    ),
    click.option(
        "--max_candidates",
        type=click.IntRange(1),
        default=DEFAULT_MAX_CANDIDATES,
        show_default=True,
        help="Maximum number of candidates of one image.",
    ),
    click.option(
        "--max_image_pixels",
        type=click.IntRange(1),
        default=100_000_000,
        show_default=True,
        help="Larger images fail.",
    ),
)

run_flags = _group(
    click.option(
        "--run", "run_name", help="Name of the run. Default: resume the unfinished run, else start a new one."
    ),
    click.option("--supersede", is_flag=True, help="End an older run of this output even if it is still working."),
    click.option(
        "--shard_size", type=click.IntRange(1), help="Inputs per shard. Default: at least 8 shards per index."
    ),
    click.option(
        "--num_indexes",
        type=click.IntRange(1),
        envvar="SAM3_NUM_INDEXES",
        show_envvar=True,
        help="Number of processes of this pool that share the run.",
    ),
    click.option("--pool", default="local", show_default=True, help="Name of the pool this process belongs to."),
)

share_flags = _group(
    click.option(
        "--index",
        type=click.IntRange(0),
        envvar="JOB_COMPLETION_INDEX",
        show_envvar=True,
        help="Index of this process, from 0.",
    ),
    click.option(
        "--order",
        type=click.Choice(["forward", "backward"]),
        default="forward",
        show_default=True,
        help="From which end of the plan a pool starts.",
    ),
    click.option(
        "--workers", type=click.IntRange(1), help="Worker processes. Default: 1 on a CPU, one per GPU on cuda."
    ),
)

runtime_flag = click.option(
    "--runtime",
    type=click.Choice(["auto", "onnx", "openvino", "torch"]),
    default="auto",
    show_default=True,
    help="Library that runs the model. `auto`: ONNX Runtime; OpenVINO, if installed, on a CPU with AVX2 but no AMX.",
)

runtime_flags = _group(
    click.option("--device", type=click.Choice(["cuda", "cpu"]), help="Default: cuda if there is one, else cpu."),
    runtime_flag,
    click.option("--batch_size", type=click.IntRange(1), help="GPU: images per call. CPU: images in flight."),
    click.option(
        "--threads", type=click.IntRange(1), help="CPU threads of the model, for all workers together. Default: all."
    ),
    click.option(
        "--max_failed_fraction",
        type=click.FloatRange(0, 1),
        default=0.05,
        show_default=True,
        help="Exit with 65 if a larger fraction of the inputs failed.",
    ),
    click.option(
        "--image_timeout_s",
        type=click.FloatRange(1),
        default=600.0,
        show_default=True,
        help="Exit with 70 if a stage of one image takes longer.",
    ),
    click.option(
        "--device_retry_s",
        type=click.FloatRange(0),
        default=0.0,
        show_default=True,
        help="How long to retry a device that does not respond.",
    ),
    click.option(
        "--self_check",
        type=click.Choice(["always", "cached", "off"]),
        default="cached",
        show_default=True,
        help="Compare the model's answers with its stored reference before the first image. "
        "cached: on a CPU, once per kind of machine.",
    ),
    click.option(
        "--memory_budget", type=ByteSize(), help="Memory for images in flight, as in 4G. Default: 60 % of free memory."
    ),
    click.option(
        "--journal_interval_s",
        type=click.FloatRange(0.1),
        default=30.0,
        show_default=True,
        help="Seconds between journal writes; a kill loses at most this much work.",
    ),
    click.option(
        "--metrics_port",
        type=click.IntRange(0, 65535),
        help="Serve /metrics and /livez on this port. Queues and memory are shown with one worker only.",
    ),
    click.option(
        "--visualize",
        type=OverlayCount(),
        is_flag=False,
        flag_value="all",
        metavar="[N|all]",
        help="Draw overlays of the first N images of the run's plan, or of all, into _sam3/overlays/ of the output. "
        "Without a value: all.",
    ),
    click.option(
        "--overlay_format",
        type=click.Choice(["jpeg", "webp", "png"]),
        default="jpeg",
        show_default=True,
        help="File format of the overlays.",
    ),
    click.option(
        "--overlay_side",
        type=click.IntRange(16),
        help="Longest side of an overlay, in pixels. Default: that of the image.",
    ),
)
