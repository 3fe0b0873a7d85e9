"""The conversion of an output: read, select, split, encode, write; memory does not grow with the data set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from job.convert.destination import Destination
from job.convert.formats.base import Categories, Encoded, Format, FormatOptions, Task
from job.convert.formats.registry import FORMATS, FormatName
from job.convert.images import ImageMode, ImagePlacer
from job.convert.labelled import LabelledImage
from job.convert.selection import ConversionCounts, Reviewed, SelectionOptions, select_instances
from job.convert.source import ImageSource
from job.convert.splitting import Side, Split, SplitOptions
from job.convert.thresholds import rows_at_thresholds
from job.errors import InputError, ObjectError, UnreadableObjectError, UsageError
from job.formats import gva
from job.formats.instance_reader import AnnotatedImage
from job.formats.instance_table import InstanceRow
from job.storage.keys import mask_name, printable
from job.storage.store import Store
from job.system.threads import iter_in_threads

logger = logging.getLogger(__name__)

_THREADS = 8
_NOT_ANNOTATED = "not annotated"
_IMAGE_ERRORS = (InputError, ObjectError, UnreadableObjectError)
"""What leaves one image out."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, kw_only=True)
class ConvertRequest:
    """One conversion.

    Attributes:
        output: The output that is converted.
        source: Its images.
        image_sources: Stores that may hold the image files, in order.
        target: The destination.
        format_name: The format.
        selection: What is written.
        split: How images are split; None for no split.
        reviewed: Whether a person must have, or must not have, filled in `review`.
        model_id: Name of the model, for formats that store it.
        image_mode: Whether images are copied or linked.
        polygons: See `FormatOptions`.
        results: See `FormatOptions`.
        task: See `FormatOptions`.
        image_url_prefix: See `FormatOptions`.
    """

    output: Store
    source: ImageSource
    image_sources: tuple[Store, ...]
    target: Store
    format_name: FormatName
    selection: SelectionOptions = field(default_factory=SelectionOptions)
    split: SplitOptions | None = None
    reviewed: Reviewed = "any"
    model_id: str = ""
    image_mode: ImageMode = "none"
    polygons: bool = False
    results: bool = False
    task: Task = "segment"
    image_url_prefix: str | None = None


def convert(request: ConvertRequest) -> ConversionCounts:
    """Convert an output.

    Raises:
        UsageError: The destination is not empty, links are not possible, a split has one side, or none of the JSON
            files is annotated.
    """
    counts = ConversionCounts()
    found: set[str | None] = set()
    with Destination(request.target) as destination:
        placer = ImagePlacer(request.image_mode, request.image_sources, destination)
        split = _split(request)
        categories = Categories(request.selection.names(request.source.classes))
        chosen = FORMATS[request.format_name](_format_options(request, destination, categories))
        writer = _Writer(chosen, placer, destination)
        selected = _selected(request, counts)
        for image, encoded in _mapped(writer.write, _numbered(selected, split, categories), request):
            if isinstance(encoded, Encoded):
                chosen.add(encoded)
                counts.add(image)
                counts.joined += encoded.joined
                found.update(instance.row.class_name for instance in image.instances)
            else:
                counts.images_left_out[encoded] += 1
        _check_annotated(request, counts)
        chosen.finish()
    _warn_of_sides(request, counts)
    _warn_of_absent_classes(request, found)
    return counts


def _check_annotated(request: ConvertRequest, counts: ConversionCounts) -> None:
    count = counts.images_left_out[_NOT_ANNOTATED]
    if count and not counts.images and counts.images_left_out.total() == count:
        raise UsageError(
            f"none of the {count} JSON files of {request.output.url} has an annotation: give the folder that annotate "
            "wrote to"
        )


def _warn_of_absent_classes(request: ConvertRequest, found: Collection[str | None]) -> None:
    """Warn of classes that no image has, where no run says which classes there are."""
    selection = request.selection
    for flag, names in (
        ("--classes", selection.classes),
        ("--rename", selection.rename),
        ("--min_score", selection.min_scores),
    ):
        absent = [name for name in names if name not in found]
        if absent and not request.source.classes:
            logger.warning("%s: no instance of %s was written. Check the name", flag, ", ".join(absent))


def _warn_of_sides(request: ConvertRequest, counts: ConversionCounts) -> None:
    """Warn of a destination or a side of the split without images, and of validation by the images of the training."""
    if not counts.images:
        logger.warning("no image was written: %s has none, or the flags leave out all of them", request.output.url)
    elif request.split is not None:
        for side in ("train", "val"):
            if not counts.sides[side]:
                logger.warning(
                    "--split %g: no image is in %s. Give another share, or convert more images",
                    request.split.share,
                    side,
                )
    elif request.format_name == "yolo":
        logger.warning(
            "--to yolo without --split: data.yaml validates on the images of the training. Give --split 0.9, and "
            "--split_by source.camera to keep cameras apart"
        )


def _format_options(request: ConvertRequest, destination: Destination, categories: Categories) -> FormatOptions:
    sides: tuple[Side, ...] = ("",) if request.split is None else ("train", "val")
    return FormatOptions(
        destination=destination,
        categories=categories,
        colours={request.selection.rename.get(name, name): value for name, value in request.source.colours.items()},
        sides=sides,
        model_id=request.model_id,
        images_url=request.image_sources[0].url,
        places_images=request.image_mode != "none",
        polygons=request.polygons,
        results=request.results,
        task=request.task,
        image_url_prefix=request.image_url_prefix,
    )


def _split(request: ConvertRequest) -> Split | None:
    """The split; groups are counted by reading the tables once more."""
    options = request.split
    if options is None:
        return None
    selector = _Selector(request)
    images = _mapped(selector.fields_of, request.source.images(request.selection.fits), request)
    return Split(options, (options.group_of(fields) for fields in images if fields is not None))


def _selected(request: ConvertRequest, counts: ConversionCounts) -> Iterator[LabelledImage]:
    def is_wanted(key: str) -> bool:
        fits = request.selection.fits(key)
        if not fits:
            counts.images_left_out["include, exclude"] += 1
        return fits

    for result in _mapped(_Selector(request).select, request.source.images(is_wanted), request):
        counts.instances_left_out.update(result.instances_left_out)
        counts.filtered += result.is_filtered
        counts.inexact += not result.is_exact
        counts.edited += result.is_edited
        if result.image is None:
            counts.images_left_out[result.reason] += 1
        else:
            yield result.image


def _numbered(images: Iterator[LabelledImage], split: Split | None, categories: Categories) -> Iterator[LabelledImage]:
    """Number images and instances, and put each image on its side."""
    first = 1
    for number, image in enumerate(images, start=1):
        categories.register(image)
        side = split.side_of(image.fields) if split is not None else ""
        yield replace(image, number=number, first_instance=first, side=side)
        first += len(image.instances)


@dataclass(frozen=True)
class _Selected:
    """An image that is written, or the reason why it is not."""

    image: LabelledImage | None
    instances_left_out: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    is_filtered: bool = False
    is_exact: bool = True
    is_edited: bool = False


class _Selector:
    def __init__(self, request: ConvertRequest) -> None:
        self._request = request

    def select(self, stored: AnnotatedImage) -> _Selected:
        if not stored.is_annotated:
            return _Selected(None, reason=_NOT_ANNOTATED)
        try:
            if stored.problem:
                raise InputError(stored.problem)
            document = self._document(stored.key)
            if not self._fits_review(stored.key, document):
                return _Selected(None, reason="reviewed")
            return replace(self._labelled(stored), is_edited=document is not None and _is_edited(stored, document))
        except _IMAGE_ERRORS as exc:
            logger.warning("%s: it is left out: %s", printable(stored.key), exc)
            return _Selected(None, reason="unreadable")

    def fields_of(self, stored: AnnotatedImage) -> InstanceRow | None:
        """The row whose camera, garage and time an image has; None for an image that is left out by its review."""
        try:
            is_wanted = stored.rows and self._fits_review(stored.key, self._document(stored.key))
            return stored.rows[0] if is_wanted else None
        except _IMAGE_ERRORS:
            return None

    def _document(self, key: str) -> gva.Document | None:
        """The JSON of an image; None where no review selects images."""
        return None if self._request.reviewed == "any" else gva.parse(self._request.output.read(key))

    def _fits_review(self, key: str, document: gva.Document | None) -> bool:
        return document is None or gva.is_mask_reviewed(document, mask_name(key)) == (self._request.reviewed == "only")

    def _labelled(self, stored: AnnotatedImage) -> _Selected:
        first = stored.rows[0]
        options, spec = self._request.selection, stored.spec
        found = rows_at_thresholds(stored, options)
        found_class = str if spec is None else spec.rules.found_class
        instances, left_out = select_instances(found.rows, first.orientation, options, found_class)
        left_out.update(found.dropped)
        image = LabelledImage(
            key=stored.key,
            image=first.image,
            size_hw=first.size_hw,
            orientation=first.orientation,
            instances=instances,
            fields=first,
            is_visible_only=stored.is_visible_only,
        )
        return _Selected(image, left_out, is_filtered=found.is_filtered, is_exact=found.is_exact)


def _is_edited(stored: AnnotatedImage, document: gva.Document) -> bool:
    """Whether somebody has changed the classes or values of the instances in a JSON since its run.

    Where no table has rows of the image, they are those of the JSON.
    """
    if stored.is_visible_only:
        return False
    labels = gva.labels_at(document, mask_name(stored.key)) or {}
    listed = {(name, value) for name, found in labels.items() for value, _ in found}
    rows = [row for row in stored.rows if row.class_name is not None and row.candidate is None]
    return listed != {(row.class_name, row.value) for row in rows if row.value is not None}


class _Writer:
    def __init__(self, chosen: Format, placer: ImagePlacer, destination: Destination) -> None:
        self._format = chosen
        self._placer = placer
        self._destination = destination

    def write(self, image: LabelledImage) -> tuple[LabelledImage, Encoded | str]:
        """Write what belongs to one image; returns what is appended, or why the image is left out."""
        try:
            encoded = self._format.encode(image)
            if not self._placer.place(image.image, self._format.image_key(image)):
                return image, "no image file"
            for key, data in encoded.files.items():
                self._destination.put(key, data)
        except (InputError, UnreadableObjectError) as exc:
            logger.warning("%s: it is left out: %s", printable(image.key), exc)
            return image, "unreadable"
        return image, encoded


def _mapped(function: Callable[[_T], _R], items: Iterator[_T], request: ConvertRequest) -> Iterator[_R]:
    """Apply a function in order; in threads where it waits for a network."""
    is_remote = any("://" in store.url for store in (request.output, request.target, *request.image_sources))
    return iter_in_threads(function, items, _THREADS) if is_remote else map(function, items)
