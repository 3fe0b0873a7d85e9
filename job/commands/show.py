"""`sam3-annotate show`: one annotated image as a picture."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from job import lossless_json
from job.errors import UsageError
from job.keys import IMAGE_SUFFIXES, MASK_SUFFIX
from job.npz import MASK_NAME
from job.overlay import OverlayLabel, draw_over_file
from job.pictures import read_header


@click.command()
@click.argument("json_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write. Default: X.overlay.png in this folder.")
@click.option("--model_id", help="Whose annotation to show. Default: the last one in the file.")
def show(json_file: Path, out: Path | None, model_id: str | None) -> None:
    """Draw masks, classes and scores of X.json over its image."""
    labels = _labels(json_file, model_id)
    mask = _read_mask(json_file.with_suffix(MASK_SUFFIX))
    image = _read_image(json_file)
    size_hw = read_header(image, max_pixels=mask.size).size_hw
    if size_hw != mask.shape:
        raise UsageError(
            f"{json_file}: the mask is {mask.shape[0]} x {mask.shape[1]}, the image is "
            f"{size_hw[0]} x {size_hw[1]}: they do not belong together"
        )
    target = out or Path(f"{json_file.stem}.overlay.png")
    try:
        draw_over_file(image, mask, labels).save(target, "PNG")
    except OSError as exc:
        raise UsageError(f"{target} cannot be written: {exc.strerror}. Give another --out") from exc
    click.echo(f"{target}: {len(labels)} instances")


def _labels(json_file: Path, model_id: str | None) -> list[OverlayLabel]:
    fields = lossless_json.parse(json_file.read_bytes())
    entries = _get(fields, "annotation", "segmentation")
    matching = [
        entry
        for entry in (entries if isinstance(entries, list) else [])
        if _get(entry, "labels", "properties") is not None and model_id in (None, _get(entry, "annotator", "model_id"))
    ]
    if not matching:
        whose = f" of {model_id}" if model_id else ""
        raise UsageError(f"{json_file} has no segmentation{whose}: give the JSON of an output folder")
    labels = matching[-1]["labels"]
    try:
        return [
            OverlayLabel(name, float(score.text), int(value.text))
            for name, values in labels["properties"].items()
            for value, score in zip(values, labels["confidences"][name], strict=True)
        ]
    except (KeyError, AttributeError, TypeError, ValueError) as exc:
        raise UsageError(f"{json_file}: properties and confidences of the segmentation do not fit") from exc


def _read_mask(path: Path) -> Any:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mask = arrays[MASK_NAME]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as exc:
        raise UsageError(f"{path} is not a mask that can be read: {exc}") from exc
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise UsageError(f"{path} holds {mask.dtype} {mask.shape}, a mask is uint8 (height, width)")
    return mask


def _read_image(json_file: Path) -> bytes:
    for suffix in IMAGE_SUFFIXES:
        path = json_file.with_suffix(suffix)
        if path.is_file():
            return path.read_bytes()
    raise UsageError(f"No image found at {json_file}: show needs it beside the JSON")


def _get(value: Any, outer: str, name: str) -> Any:
    part = value.get(outer) if isinstance(value, dict) else None
    return part.get(name) if isinstance(part, dict) else None
