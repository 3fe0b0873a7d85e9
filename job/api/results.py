"""Stored annotations, read image by image."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from job.api.annotation import Annotation, Instance
from job.convert.source import ImageSource, OutputSource
from job.errors import ConfigurationError, ObjectError, ObjectMissingError
from job.formats.image_decode import decode_upright
from job.formats.instance_reader import AnnotatedImage
from job.storage.keys import printable
from job.storage.open import new_process_id, open_store
from job.storage.store import Store

logger = logging.getLogger(__name__)


class Results:
    """The annotated images of an output, ascending by key; each iteration reads the output again.

    Memory does not grow with the output.
    """

    def __init__(self, source: ImageSource, image_stores: Sequence[Store]) -> None:
        """See `open_results`."""
        self._source = source
        self._stores = tuple(image_stores)

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes of the runs, in order."""
        return self._source.classes

    def __iter__(self) -> Iterator[Annotation]:
        """Read the images.

        Raises:
            StorageError: The storage is out of reach.
        """
        return map(self._annotation, self._images())

    def instances(self) -> Iterator[tuple[Annotation, Instance]]:
        """All instances, each with its image."""
        for annotation in self:
            for instance in annotation.instances:
                yield annotation, instance

    def to_pandas(self) -> Any:
        """One row an instance as a `pandas.DataFrame`: image, class, score, box and area; without masks.

        An image without instances has one row without a class. All rows are in memory at once.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as exc:
            raise ConfigurationError(f"this needs {exc.name}, which is not installed: pip install pandas") from exc
        return pandas.DataFrame.from_records(list(self._records()), columns=list(_COLUMNS))

    def _records(self) -> Iterator[tuple[Any, ...]]:
        for stored in self._images():
            for row in stored.rows:
                if row.candidate is None:
                    yield tuple(getattr(row, field) for field in _COLUMNS.values())

    def _images(self) -> Iterator[AnnotatedImage]:
        """Those that can be read."""
        unannotated = 0
        for stored in self._source.images():
            if not stored.is_annotated:
                unannotated += 1
            elif stored.problem:
                logger.warning("%s: it is left out: %s", printable(stored.key), stored.problem)
            else:
                yield stored
        if unannotated:
            logger.warning(
                "%d JSON files are left out: they have no annotation, and no NPZ lies beside them", unannotated
            )

    def _annotation(self, stored: AnnotatedImage) -> Annotation:
        first = stored.rows[0]
        instances = tuple(
            Instance(row.class_name, row.score, row.value, row.prompt, row.query, row.rle)
            for row in stored.rows
            if row.class_name is not None and row.rle is not None and row.candidate is None
        )
        return Annotation(
            instances=instances,
            size_hw=first.size_hw,
            class_names=self.class_names,
            key=stored.key,
            image_key=first.image,
            orientation=first.orientation,
            is_whole=not stored.is_visible_only,
            load_image=lambda: decode_upright(self._read_image(first.image)),
        )

    def _read_image(self, key: str) -> bytes:
        for store in self._stores[:-1]:
            try:
                return store.read(key)
            except ObjectMissingError:
                continue
        try:
            return self._stores[-1].read(key)
        except ObjectError as exc:
            raise ConfigurationError(
                f"{key}: the image is not in {' or '.join(store.url for store in self._stores)}: "
                "give the folder of the images to open_results"
            ) from exc


def open_results(
    url: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Results:
    """Open the annotations of an output.

    Args:
        url: Folder or URL that `sam3-annotate annotate` wrote to.
        images: Folder or URL of the images, for pictures, if the output has no copies. None: the input of the newest
            run.
        storage_options: Options of the fsspec driver. Its environment variables supply the rest.

    Raises:
        UsageError: There is nothing, or no driver for the protocol.
        StorageError: The storage is out of reach.
    """
    output = open_store(os.fspath(url), new_process_id(), storage_options)
    source = OutputSource(output)
    others = images if images is not None else source.input_url
    stores = [output] if others is None else [output, open_store(os.fspath(others), new_process_id(), storage_options)]
    return Results(source, stores)


_COLUMNS = {
    "json": "json",
    "image": "image",
    "width": "width",
    "height": "height",
    "class": "class_name",
    "prompt": "prompt",
    "score": "score",
    "value": "value",
    "parent": "parent",
    "box": "box",
    "area": "area",
    "visible_area": "visible_area",
    "camera": "camera",
    "garage": "garage",
    "timestamp_ms": "timestamp_ms",
}
"""Columns of `to_pandas` and the fields of a row that they hold."""
