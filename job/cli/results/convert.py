"""`sam3-annotate convert`: the formats of training and review programs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeVar

import click
import msgspec

from job.cli.flags import FILE, FOLDER, log_flags
from job.convert.conversion import ConvertRequest
from job.convert.conversion import convert as convert_output
from job.convert.formats.registry import FORMATS
from job.convert.images import check_links
from job.convert.selection import ConversionCounts, SelectionOptions
from job.convert.source import OutputSource
from job.convert.splitting import GROUP_FIELDS, GroupField, SplitOptions
from job.errors import UsageError
from job.run.spec import RunSpec
from job.storage.open import Address, new_process_id
from job.storage.store import Store, refusals_are_configuration
from job.telemetry.logs import set_up_logging

logger = logging.getLogger(__name__)

_Name = TypeVar("_Name")
_Value = TypeVar("_Value")

_ONLY_FOR = {
    "polygons": ("coco", "labelme"),
    "results": ("coco",),
    "task": ("yolo",),
    "image_url_prefix": ("label-studio",),
}
"""Flags that belong to some formats."""


@click.command()
@click.argument("out", type=FOLDER)
@click.argument("dest", type=FOLDER)
@click.option(
    "--to",
    "format_name",
    type=click.Choice(list(FORMATS)),
    metavar=f"[{'|'.join(FORMATS)}]",
    required=True,
    help="Format to write.",
)
@click.option(
    "--input_top_dir",
    type=FOLDER,
    help="Folder or URL of the images, if OUT has no copies of them. Default: that of the newest run.",
)
@click.option("--input_storage_options", type=FILE, help="JSON file of fsspec options for the input.")
@click.option("--output_storage_options", type=FILE, help="JSON file of fsspec options for OUT.")
@click.option("--dest_storage_options", type=FILE, help="JSON file of fsspec options for DEST. Default: those of OUT.")
@click.option(
    "--min_score",
    "min_scores",
    multiple=True,
    metavar="[CLASS=]X",
    help="Only instances with a higher score, of all classes or of one; repeatable. Below the run's threshold it needs "
    "a run with --candidates_threshold.",
)
@click.option("--classes", help="Only these classes, as in car,person; their order is that of the numbers.")
@click.option("--rename", multiple=True, metavar="A=B", help="Write class A as B; repeatable.")
@click.option(
    "--min_area",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Only instances with at least this many pixels.",
)
@click.option(
    "--reviewed",
    type=click.Choice(["any", "only", "none"]),
    default="any",
    show_default=True,
    help="only: images whose annotation has a `review`; none: those without. Reads the JSON of every image.",
)
@click.option(
    "--masks",
    type=click.Choice(["whole", "visible"]),
    default="whole",
    show_default=True,
    help="visible: without the pixels that smaller instances cover, as in the NPZ.",
)
@click.option(
    "--split", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Share of the images in training."
)
@click.option(
    "--split_by",
    help="Put all images with the same value on one side: source.camera, source.garage or day (UTC day of the time "
    "stamp); several with commas.",
)
@click.option("--include", multiple=True, help="Only JSON keys that match this glob (`*` matches `/` too); repeatable.")
@click.option("--exclude", multiple=True, help="Skip JSON keys that match this glob; repeatable.")
@click.option(
    "--images",
    "image_mode",
    type=click.Choice(["copy", "link", "none"]),
    default="none",
    show_default=True,
    help="Copy the image files into DEST, or link them (local folders).",
)
@click.option("--polygons", is_flag=True, help="coco, labelme: polygons of all parts, without holes, instead of masks.")
@click.option("--results", is_flag=True, help="coco: also write the form of results, for pycocotools' loadRes.")
@click.option("--task", type=click.Choice(["segment", "detect"]), help="yolo: outlines or boxes. Default: segment.")
@click.option(
    "--image_url_prefix",
    help="label-studio: what precedes the key of an image in its URL. Default: where the images are.",
)
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format.")
@log_flags
def convert(**flags: Any) -> None:
    """Convert the annotations of OUT to another format in DEST, an empty folder or URL.

    The masks are whole, from the instance tables of the runs; of images without table rows they are the visible parts.
    """
    set_up_logging(flags["log_level"], flags["log_format"])
    _check_flags(flags)
    if flags["format_name"] == "yolo" and flags["image_mode"] == "none":
        logger.warning("Labels only: Ultralytics needs the images in DEST too, by --images link or copy")
    with refusals_are_configuration(is_planner=True):
        request = _request(flags)
        counts = convert_output(request)
    show = _as_json if flags["output"] == "json" else _as_text
    click.echo(show(counts, request.target.url))


def _check_flags(flags: dict[str, Any]) -> None:
    for name, formats in _ONLY_FOR.items():
        if flags[name] and flags["format_name"] not in formats:
            raise UsageError(f"--{name} is for --to {' or '.join(formats)}, not for {flags['format_name']}")
    if flags["image_mode"] == "link":
        check_links(url for url in (flags["dest"], flags["out"], flags["input_top_dir"]) if url)
    if flags["split_by"] is not None and flags["split"] is None:
        raise UsageError("--split_by needs --split: give the share of the images in training, such as --split 0.9")


def _request(flags: dict[str, Any]) -> ConvertRequest:
    output = _open(flags["out"], flags["output_storage_options"])
    source = OutputSource(output)
    input_url = flags["input_top_dir"] or source.input_url
    inputs = () if input_url is None else (_open(input_url, flags["input_storage_options"]),)
    selection = _selection(flags)
    _check_classes(selection, source.classes)
    _warn_of_renames(selection)
    _warn_of_passengers(selection, source.newest)
    target = _open(flags["dest"], flags["dest_storage_options"] or flags["output_storage_options"])
    _check_apart(output, target)
    return ConvertRequest(
        output=output,
        source=source,
        image_sources=(output, *inputs) if source.has_image_copies else (*inputs, output),
        target=target,
        format_name=flags["format_name"],
        selection=selection,
        split=None if flags["split"] is None else SplitOptions(share=flags["split"], by=_fields(flags["split_by"])),
        reviewed=flags["reviewed"],
        model_id=source.model_id,
        image_mode=flags["image_mode"],
        polygons=flags["polygons"],
        results=flags["results"],
        task=flags["task"] or "segment",
        image_url_prefix=flags["image_url_prefix"],
    )


def _open(url: str, options: str | None) -> Store:
    return Address.with_file(url, options).open(new_process_id())


def _check_apart(output: Store, target: Store) -> None:
    one, other = f"{output.url}/", f"{target.url}/"
    if one.startswith(other) or other.startswith(one):
        raise UsageError(
            f"OUT {output.url} and DEST {target.url} are one folder, or one lies inside the other: give another DEST"
        )


def _selection(flags: dict[str, Any]) -> SelectionOptions:
    scores = _each_once("--min_score", [_score(text) for text in flags["min_scores"]])
    return SelectionOptions(
        min_score=scores.get(None),
        min_scores={name: score for name, score in scores.items() if name is not None},
        classes=_names("--classes", flags["classes"]),
        rename=_each_once("--rename", [_pair(text) for text in flags["rename"]]),
        min_area=flags["min_area"],
        masks=flags["masks"],
        include=flags["include"],
        exclude=flags["exclude"],
    )


def _each_once(flag: str, pairs: Sequence[tuple[_Name, _Value]]) -> dict[_Name, _Value]:
    """The values by class (None: all classes)."""
    values: dict[_Name, _Value] = {}
    for name, value in pairs:
        if values.setdefault(name, value) != value:
            raise UsageError(
                f"{flag} has {values[name]} and {value} for {name or 'all classes'}: give each class one value"
            )
    return values


def _check_classes(selection: SelectionOptions, classes: tuple[str, ...]) -> None:
    """Refuse names that are classes of no run, if there is a run."""
    for flag, names in (
        ("--classes", selection.classes),
        ("--rename", selection.rename),
        ("--min_score", selection.min_scores),
    ):
        unknown = [name for name in names if name not in classes]
        if classes and unknown:
            raise UsageError(f"{flag}: OUT has no class {unknown[0]}; its classes are {', '.join(classes)}")


def _warn_of_renames(selection: SelectionOptions) -> None:
    """Warn of a new name for a class that is not written: --classes selects by the names in OUT."""
    unused = [name for name in selection.rename if selection.classes and name not in selection.classes]
    if unused:
        new = selection.rename[unused[0]]
        logger.warning(
            "--rename %s=%s has no effect: --classes, which takes the names in OUT, leaves %s out. Add it to --classes",
            *(unused[0], new, unused[0]),
        )


def _warn_of_passengers(selection: SelectionOptions, spec: RunSpec | None) -> None:
    """Warn of a score for passengers that finds no more of them, because they are persons first."""
    passengers = None if spec is None else spec.rules.passengers
    if spec is None or passengers is None or passengers.name not in selection.min_scores:
        return
    rules = spec.rules
    if spec.candidates_threshold is not None:
        rules = rules.with_min_scores(selection.min_score, selection.min_scores)
    needed = next(one.min_score for one in rules.classes if one.name == passengers.occupant)
    given = selection.min_scores[passengers.name]
    if given < needed:
        logger.warning(
            "--min_score %s=%g has no effect: a %s is a %s in a %s, whose score must exceed %g. Give --min_score %s=%g",
            *(passengers.name, given, passengers.name, passengers.occupant, passengers.container, needed),
            *(passengers.occupant, given),
        )


def _names(flag: str, text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise UsageError(f"{flag} {text!r} has no name: give names with commas between them, or leave {flag} out")
    return names


def _score(text: str) -> tuple[str | None, float]:
    name, equals, number = text.rpartition("=")
    try:
        score = float(number)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1 or (equals and not name):
        raise UsageError(f"--min_score {text}: give a score from 0 to 1, as in 0.5 or car=0.5")
    return (name if equals else None), score


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (equals and old and new and new.isprintable()):
        raise UsageError(f"--rename {text}: give the old and the new name of a class, as in license_plate=plate")
    return old, new


def _fields(text: str | None) -> tuple[GroupField, ...]:
    names = _names("--split_by", text)
    found = tuple(field for field in GROUP_FIELDS if field in names)
    unknown = [name for name in names if name not in GROUP_FIELDS]
    if unknown:
        raise UsageError(f"--split_by {unknown[0]}: known are {', '.join(GROUP_FIELDS)}")
    return found


def _as_json(counts: ConversionCounts, url: str) -> bytes:
    return msgspec.json.encode(
        {
            "dest": url,
            "images": counts.images,
            "instances": counts.instances,
            "negatives": counts.negatives,
            "visible_only": counts.visible_only,
            "filtered": counts.filtered,
            "inexact": counts.inexact,
            "edited": counts.edited,
            "joined": counts.joined,
            "split": dict(counts.sides),
            "images_left_out": dict(counts.images_left_out),
            "instances_left_out": dict(counts.instances_left_out),
        }
    )


def _as_text(counts: ConversionCounts, url: str) -> str:
    sides = ", ".join(f"{side} {counts.sides[side]}" for side in ("train", "val") if counts.sides)
    left_out = [
        f"{count} {kind} ({reason})"
        for kind, reasons in (("images", counts.images_left_out), ("instances", counts.instances_left_out))
        for reason, count in sorted(reasons.items())
    ]
    parts = [
        f"{url}: {counts.images} images{f' ({sides})' if sides else ''}, {counts.instances} instances, "
        f"{counts.negatives} negatives; left out: {', '.join(left_out) or 'nothing'}"
    ]
    if counts.visible_only:
        parts.append(f"the masks of {counts.visible_only} images are the visible parts: no instance table has them")
    if counts.filtered:
        parts.append(f"--min_score only filtered {counts.filtered} images: their runs stored no candidates")
    if counts.inexact:
        parts.append(f"{counts.inexact} images may lack instances: their runs stored fewer candidates than this needs")
    if counts.edited:
        parts.append(f"{counts.edited} images list other instances in their JSON: what their run found was converted")
    if counts.joined:
        parts.append(f"{counts.joined} instances have several parts, joined to one outline at some cost of IoU")
    return "; ".join(parts)
