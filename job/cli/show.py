"""`sam3-annotate show`: draw the annotation of one image."""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from job.errors import InputError, UsageError
from job.formats import lossless_json
from job.formats.gva import FORMAT
from job.formats.image_decode import read_header
from job.formats.mask_npz import MASK_NAME
from job.formats.overlay import OverlayLabel, draw_over_file
from job.storage.keys import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from numpy.typing import NDArray


@click.command()
@click.argument("json_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write. Default: X.overlay.png in this folder.")
@click.option("--model_id", help="Show the annotation of this model. Default: the newest.")
def show(json_file: Path, out: Path | None, model_id: str | None) -> None:
    """Draw masks, classes and scores of X.json over its image.

    The image and the mask that X.json names must be in its folder.
    """
    labels, mask_name = _read_labels(json_file, model_id)
    mask = _read_mask(json_file.parent / mask_name)
    image_file = _find_image(json_file)
    with _errors_name(image_file):
        image = image_file.read_bytes()
        size_hw = read_header(image, max_pixels=sys.maxsize).size_hw
        if size_hw != mask.shape:
            raise UsageError(
                f"it has {size_hw[1]} x {size_hw[0]} pixels and the mask {mask_name} {mask.shape[1]} x "
                f"{mask.shape[0]}: give the JSON of the output folder that holds both"
            )
        drawn = draw_over_file(image, mask, labels)
    target = out or Path(f"{json_file.stem}.overlay.png")
    try:
        drawn.save(target, "PNG")
    except OSError as exc:
        raise UsageError(f"{target} cannot be written: {exc.strerror}. Give another --out") from exc
    click.echo(f"{click.format_filename(target)}: {len(labels)} instances")


def _read_labels(json_file: Path, model_id: str | None) -> tuple[list[OverlayLabel], str]:
    """Labels of the requested annotation, and the name of its mask file."""
    with _errors_name(json_file):
        entries = _get(lossless_json.parse(json_file.read_bytes()), "annotation", "segmentation")
        wanted = [
            entry
            for entry in (entries if isinstance(entries, list) else [])
            if _get(entry, "labels", "annotation_format") == FORMAT
            and model_id in (None, _get(entry, "annotator", "model_id"))
        ]
        if not wanted:
            whose = f" of {model_id}" if model_id else ""
            raise UsageError(f"it has no segmentation{whose}: give the JSON of an output folder")
        labels = max(reversed(wanted), key=_date_of)["labels"]
        if not isinstance(labels.get("path"), str):
            raise UsageError("its segmentation does not name the mask file in labels.path")
        try:
            return _overlay_labels(labels), labels["path"]
        except (KeyError, AttributeError, TypeError, ValueError) as exc:
            raise UsageError("properties and confidences of its segmentation do not match") from exc


def _date_of(entry: dict[str, Any]) -> str:
    """`YYYY-MM-DD` of an annotation; an entry without a date sorts first."""
    date = entry.get("annotation_date")
    return date if isinstance(date, str) else ""


def _overlay_labels(labels: dict[str, Any]) -> list[OverlayLabel]:
    """Labels by class; their scores are None if the annotator (a person) gives no confidences."""
    confidences = labels.get("confidences")
    found: list[OverlayLabel] = []
    for name, values in labels["properties"].items():
        scores = [None] * len(values) if confidences is None else [float(score.text) for score in confidences[name]]
        found += [OverlayLabel(name, score, _mask_value(value)) for value, score in zip(values, scores, strict=True)]
    return found


def _mask_value(value: Any) -> int:
    number = lossless_json.as_int(value)
    if number is None or not 0 < number < 256:
        raise ValueError(f"{value} is not a mask value")
    return number


def _read_mask(path: Path) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            mask = arrays[MASK_NAME]
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}. show needs it in the folder of the JSON") from exc
    except (KeyError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as exc:
        raise UsageError(f"{path} is not a mask file: {exc}") from exc
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise UsageError(f"{path} holds {mask.dtype} {mask.shape}, a mask is uint8 (height, width)")
    return np.asarray(mask)


def _find_image(json_file: Path) -> Path:
    for suffix in IMAGE_SUFFIXES:
        path = json_file.with_suffix(suffix)
        if path.is_file():
            return path
    raise UsageError(f"No image found at {json_file}: show needs it in the folder of the JSON")


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Convert errors about a file into usage errors that name it."""
    try:
        yield
    except (InputError, UsageError) as exc:
        raise UsageError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}") from exc


def _get(value: Any, outer: str, name: str) -> Any:
    part = value.get(outer) if isinstance(value, dict) else None
    return part.get(name) if isinstance(part, dict) else None
