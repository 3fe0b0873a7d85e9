"""The GVA metadata of one image: read it, insert our annotation, write it; every other field is unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from job.errors import InputError
from job.formats import lossless_json
from job.postprocess.annotate import Annotation

FORMAT = "all_masks_on_single_array"
FORMAT_VERSION = "1.0"
SCORE_DECIMALS = 3
MAX_NAME = 1000
"""Longest name of a camera or garage, in characters: every row of the instance table repeats it."""
_MAX_WARNINGS = 10
_MAX_SHOWN = 80


@dataclass(frozen=True)
class Document:
    """One JSON, decoded losslessly (job.formats.lossless_json). Must not be modified in place."""

    fields: dict[str, Any]


@dataclass(frozen=True)
class MergeResult:
    """A document with our annotation, and warnings for the user."""

    document: Document
    warnings: tuple[str, ...]


def parse(raw: bytes) -> Document:
    """Decode an input's JSON.

    Raises:
        InputError: It cannot be preserved exactly, or an annotation cannot be inserted.
    """
    document = Document(lossless_json.parse(raw))
    _segmentation(document)
    return document


def new_document(image_name: str, size_hw: tuple[int, int]) -> Document:
    """A minimal document of an image that has no JSON.

    Args:
        image_name: Name of its file, without folders.
        size_hw: Height and width of the raster as stored, in pixels.
    """
    height, width = size_hw
    dimensions = {"width": width, "height": height}
    return Document({"image": {"dimensions": dimensions}, "source": {"source_type": "file", "file_name": image_name}})


def parse_prior(raw: bytes) -> Document:
    """Decode the existing JSON of the output.

    Raises:
        InputError: It is invalid. It may hold entries of other annotators, so it is not replaced.
    """
    try:
        return parse(raw)
    except InputError as exc:
        raise InputError(f"the JSON in the output folder cannot be read ({exc}): repair or remove it") from exc


def render(document: Document) -> bytes:
    """Encode for the output."""
    return lossless_json.render(document.fields)


def declared_size_wh(document: Document) -> tuple[int, int] | None:
    """Width and height in pixels according to the metadata; None if they are absent or invalid."""
    image = document.fields.get("image")
    dimensions = image.get("dimensions") if isinstance(image, dict) else None
    if not isinstance(dimensions, dict):
        return None
    width, height = (lossless_json.as_int(dimensions.get(name)) for name in ("width", "height"))
    return None if width is None or height is None else (width, height)


@dataclass(frozen=True)
class Origin:
    """Where and when an image was taken, as far as the metadata says; None for what it lacks.

    Attributes:
        camera: `source.camera`, of at most `MAX_NAME` characters.
        garage: `source.garage`, likewise.
        timestamp_ms: `image.timestamp_ms`, a signed 64-bit integer.
    """

    camera: str | None = None
    garage: str | None = None
    timestamp_ms: int | None = None


def origin_of(document: Document) -> Origin:
    """Read camera, garage and time; a lone surrogate in a name becomes its escape."""
    timestamp_ms = lossless_json.as_int(_inner(document.fields, "image", "timestamp_ms"))
    is_stored = timestamp_ms is not None and -(1 << 63) <= timestamp_ms < 1 << 63
    return Origin(
        camera=_text(_inner(document.fields, "source", "camera")),
        garage=_text(_inner(document.fields, "source", "garage")),
        timestamp_ms=timestamp_ms if is_stored else None,
    )


def is_reviewed(document: Document, model_id: str) -> bool:
    """Whether an entry of ours has a review."""
    return any(_is_ours(entry, model_id) and entry.get("review") is not None for entry in _segmentation(document))


def has_entry_at(document: Document, npz_name: str) -> bool:
    """Whether an entry points at a mask's file, whatever its model."""
    return any(_labels_path(entry) == npz_name for entry in _segmentation(document))


def is_mask_reviewed(document: Document, npz_name: str) -> bool:
    """Whether an entry that points at a mask's file has a review, whatever its model."""
    return any(_labels_path(entry) == npz_name and entry.get("review") is not None for entry in _segmentation(document))


@dataclass(frozen=True)
class Labels:
    """Labels of an entry of ours.

    Attributes:
        values: Mask values of all instances.
        confidences: Scores by class.
    """

    values: frozenset[int]
    confidences: dict[str, list[float]]


def labels_of(document: Document, model_id: str) -> Labels | None:
    """Labels of the first entry of ours; None if there is none or it is invalid."""
    entry = next((other for other in _segmentation(document) if _is_ours(other, model_id)), None)
    properties, confidences = (_inner(entry, "labels", name) for name in ("properties", "confidences"))
    try:
        values = frozenset(int(value.text) for values in properties.values() for value in values)
        scores = {name: [float(score.text) for score in listed] for name, listed in confidences.items()}
    except (AttributeError, TypeError, ValueError):
        return None
    return Labels(values, scores)


def labels_at(document: Document, npz_name: str) -> dict[str, list[tuple[int, float]]] | None:
    """Value and score of every instance by class, in the first entry of our format that points at a mask's file.

    Args:
        document: The output's JSON.
        npz_name: Name of the mask's file.

    Returns:
        None if there is no such entry or it is invalid.
    """
    for entry in _segmentation(document):
        if _labels_path(entry) == npz_name and _inner(entry, "labels", "annotation_format") == FORMAT:
            properties, confidences = (_inner(entry, "labels", name) for name in ("properties", "confidences"))
            try:
                return {name: _scored(values, confidences[name]) for name, values in properties.items()}
            except (AttributeError, KeyError, TypeError, ValueError):
                return None
    return None


def _scored(values: list[Any], scores: list[Any]) -> list[tuple[int, float]]:
    return [(int(value.text), float(score.text)) for value, score in zip(values, scores, strict=True)]


def segmentation_entry(annotation: Annotation, *, npz_name: str, model_id: str, annotation_date: str) -> dict[str, Any]:
    """Build our entry of `annotation.segmentation`.

    Args:
        annotation: The instances and their mask.
        npz_name: Name of the mask's file in the folder of the JSON.
        model_id: Name of the model.
        annotation_date: `YYYY-MM-DD`.
    """
    classes = annotation.rules.class_names
    properties: dict[str, list[int]] = {}
    confidences: dict[str, list[float]] = {}
    for instance, value in zip(annotation.instances, annotation.values, strict=True):
        properties.setdefault(instance.class_name, []).append(value)
        confidences.setdefault(instance.class_name, []).append(round(instance.score, SCORE_DECIMALS))
    return {
        "annotation_date": annotation_date,
        "considered_classes": list(classes),
        "annotator": {
            "annotator_type": "Model",
            "model_id": model_id,
            "model_metadata": {
                "model_type": "segmentation",
                "model_name": model_id,
                "classes": {str(number): name for number, name in enumerate(classes)},
            },
        },
        "labels": {
            "annotation_format": FORMAT,
            "annotation_format_version": FORMAT_VERSION,
            "path": npz_name,
            "properties": properties,
            "confidences": confidences,
        },
        "review": None,
    }


def merge(document: Document, entry: dict[str, Any], prior: Document | None) -> MergeResult:
    """Insert our entry into a document.

    Our entry replaces the first entry of ours and further ones are dropped; if there is none, ours is appended.
    Entries of other annotators are kept, and those that only the output's JSON has follow them.

    An entry of the output's JSON that points at the mask's file is dropped, because the file will hold our masks;
    if it has a review, a warning says so. Such an entry of the input is kept, with a warning.

    Args:
        document: The input's JSON.
        entry: Our entry.
        prior: The output's JSON, or None.

    Returns:
        A new document; the arguments are not modified.
    """
    model_id, npz_name = entry["annotator"]["model_id"], entry["labels"]["path"]
    listed = _segmentation(document)
    kept = [other for other in listed if not _is_ours(other, model_id)]
    position = next((i for i, other in enumerate(listed) if _is_ours(other, model_id)), len(kept))
    only_prior = _only_in(prior, kept, model_id) if prior is not None else []
    added = [other for other in only_prior if _labels_path(other) != npz_name]
    segmentation = [*kept[:position], entry, *kept[position:], *added]
    annotation = {**(document.fields.get("annotation") or {}), "segmentation": segmentation}
    return MergeResult(
        Document({**document.fields, "annotation": annotation}), _path_warnings(kept, only_prior, npz_name)
    )


def _only_in(prior: Document, kept: list[Any], model_id: str) -> list[Any]:
    """Entries of other annotators that the output's JSON has and the input's has not; in linear time."""
    known = {lossless_json.canonical(other) for other in kept}
    others = (other for other in _segmentation(prior) if not _is_ours(other, model_id))
    return [other for other in others if lossless_json.canonical(other) not in known]


def _path_warnings(kept: list[Any], only_prior: list[Any], npz_name: str) -> tuple[str, ...]:
    stays = [
        f"the entry of {_annotator_of(other)} points at {npz_name}, which now holds our masks"
        for other in kept
        if _labels_path(other) == npz_name
    ]
    dropped = [
        f"the reviewed entry of {_annotator_of(other)} in the output pointed at {npz_name} and is dropped with its mask"
        for other in only_prior
        if _labels_path(other) == npz_name and other.get("review") is not None
    ]
    found = [*stays, *dropped]
    more = len(found) - _MAX_WARNINGS
    return (*found[:_MAX_WARNINGS], f"and {more} more entries") if more > 0 else tuple(found)


def _segmentation(document: Document) -> list[Any]:
    """The list of entries; empty if there is none.

    Raises:
        InputError: `annotation` is not an object or `segmentation` not a list.
    """
    annotation = document.fields.get("annotation")
    if annotation is None:
        return []
    if not isinstance(annotation, dict):
        raise InputError("JSON field annotation is not an object: an annotation cannot be inserted")
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        return []
    if not isinstance(segmentation, list):
        raise InputError("JSON field annotation.segmentation is not a list: an annotation cannot be inserted")
    return segmentation


def _is_ours(entry: Any, model_id: str) -> bool:
    return bool(_inner(entry, "annotator", "model_id") == model_id)


def _labels_path(entry: Any) -> Any:
    return _inner(entry, "labels", "path")


def _annotator_of(entry: Any) -> str:
    names = (_inner(entry, "annotator", name) for name in ("model_id", "annotator_type"))
    return next((repr(name[:_MAX_SHOWN]) for name in names if isinstance(name, str)), "another annotator")


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        return None
    return value.encode("utf-8", "backslashreplace").decode()


def _inner(entry: Any, outer: str, name: str) -> Any:
    part = entry.get(outer) if isinstance(entry, dict) else None
    return part.get(name) if isinstance(part, dict) else None
