"""Reading the instances of an output: from the instance table, and where it has no rows, from NPZ and JSON.

An image has the rows of the newest run that annotated it, in the part of the table that the run's journal names. So a
process that was killed, or a second one that did the same image, never yields an image twice.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from job.errors import InputError, ObjectError, ObjectMissingError, UnreadableObjectError
from job.formats import gva
from job.formats.image_decode import read_header
from job.formats.instance_table import InstanceRow, decode_part
from job.formats.mask_npz import mask_facts, read_mask
from job.formats.visible_rows import VisibleImage, visible_rows
from job.run.annotated_rows import AnnotatedRows, NewestRows
from job.run.instance_parts import part_key
from job.run.journal import ResultRow
from job.run.run import Run
from job.run.spec import RunSpec
from job.storage.keys import IMAGE_SUFFIXES, JSON_SUFFIX, is_machine_file, mask_key, mask_name, stem_of
from job.storage.store import PRIVATE_FOLDER, Store
from job.system.threads import iter_in_threads

logger = logging.getLogger(__name__)

_THREADS = 8
_MIN_CACHED_PARTS = 4
_CACHED_BYTES = 32 << 20
"""Bytes of the decoded parts that stay in memory; by their compressed size equal masks would be too many."""
_ROW_BYTES = 1000
"""What a row takes without the counts of its mask."""

_HEADER_BYTES = 1 << 18
"""Bytes of an image that hold its header; EXIF in a JPEG has at most 64 KiB."""

KeyFilter = Callable[[str], bool]


@dataclass(frozen=True)
class AnnotatedImage:
    """One annotated image of an output.

    Attributes:
        key: Key of its JSON.
        rows: Its rows; an image without instances has one row without a class.
        result: The row of the journal that names them; None where `is_visible_only` or `problem` says so.
        is_visible_only: Whether the table has no rows of it, so that the rows are made from NPZ and JSON: masks are the
            visible parts, scores have 3 decimals, and instances that smaller ones cover are left out.
        spec: Options of the run that made its rows; None where `is_visible_only` or `problem` says so.
        problem: Why the image cannot be read, or empty; then there are no rows.
        is_annotated: False: the JSON is an input that is not annotated, or another file; `problem` says it too.
    """

    key: str
    rows: tuple[InstanceRow, ...]
    result: ResultRow | None = None
    is_visible_only: bool = False
    spec: RunSpec | None = None
    problem: str = ""
    is_annotated: bool = True


class _NotAnnotatedError(InputError):
    """A JSON without an annotation and without an NPZ."""


class InstanceParts:
    """Parts of the instance table of an output, decoded; the last ones stay in memory. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: OrderedDict[str, dict[str, tuple[InstanceRow, ...]]] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def rows_of(self, run: Run, shard: str, result: ResultRow) -> tuple[InstanceRow, ...]:
        """The rows of an image in the part that its journal row names.

        Raises:
            ObjectMissingError: The part does not exist.
            InputError: The part is damaged, or has no rows of the image.
        """
        key = part_key(run, shard, result.instances)
        with self._lock:
            if key not in self._parts:
                self._load(run.store, key)
            self._parts.move_to_end(key)
            rows = self._parts[key].get(result.json, ())
        if not rows:
            raise InputError(f"instance table: {key} has no rows of it")
        return rows

    def _load(self, store: Store, key: str) -> None:
        part = store.read(key)
        by_key: dict[str, list[InstanceRow]] = {}
        size = 0
        for row in decode_part(part):
            by_key.setdefault(row.json, []).append(row)
            size += _ROW_BYTES + (len(row.rle.counts) if row.rle is not None else 0)
        self._parts[key] = {name: tuple(rows) for name, rows in by_key.items()}
        self._sizes[key] = size
        while len(self._parts) > _MIN_CACHED_PARTS and sum(self._sizes.values()) > _CACHED_BYTES:
            oldest, _ = self._parts.popitem(last=False)
            del self._sizes[oldest]


def read_instances(store: Store, is_wanted: KeyFilter = lambda key: True) -> Iterator[AnnotatedImage]:
    """Read every annotated image of an output; memory does not grow with the output.

    Args:
        store: The output.
        is_wanted: Takes the key of a JSON; False leaves the image out before anything of it is read.

    Yields:
        Images, ascending by the key of their JSON.
    """
    reader = _ImageReader(store)
    newest = NewestRows(store)
    keys = (found.key for found in store.list(skip=PRIVATE_FOLDER) if _is_json(found.key) and is_wanted(found.key))
    yield from iter_in_threads(reader.read, ((key, newest.of(key)) for key in keys), _THREADS)


def _is_json(key: str) -> bool:
    return key.endswith(JSON_SUFFIX) and not is_machine_file(key)


class _ImageReader:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._parts = InstanceParts()
        self._damaged: set[str] = set()

    def read(self, found: tuple[str, AnnotatedRows | None]) -> AnnotatedImage:
        """Read one image; never raises an error of the image itself."""
        key, recorded = found
        try:
            if recorded is not None and (whole := self._from_table(key, recorded)) is not None:
                return whole
            return AnnotatedImage(key, self._visible(key), is_visible_only=True)
        except _NotAnnotatedError as exc:
            return AnnotatedImage(key, (), problem=str(exc), is_annotated=False)
        except (InputError, ObjectError, UnreadableObjectError) as exc:
            return AnnotatedImage(key, (), problem=str(exc))

    def _from_table(self, key: str, recorded: AnnotatedRows) -> AnnotatedImage | None:
        result = recorded.valid_row(lambda: mask_facts(self._store.read(mask_key(key))).sha256)
        if result is None or not result.instances:
            return None
        try:
            rows = self._parts.rows_of(recorded.run, recorded.shard, result)
        except (InputError, ObjectMissingError) as exc:
            self._warn_once(part_key(recorded.run, recorded.shard, result.instances), exc)
            return None
        return AnnotatedImage(key, rows, result, spec=recorded.run.spec)

    def _warn_once(self, part: str, problem: Exception) -> None:
        """Report a part that the journal names and that cannot be read; every image of it meets the same problem."""
        if part not in self._damaged:
            self._damaged.add(part)
            logger.warning(
                "%s cannot be read (%s): its images get their visible masks. `audit --deep` lists them", part, problem
            )

    def _visible(self, key: str) -> tuple[InstanceRow, ...]:
        document = gva.parse(self._store.read(key))
        try:
            packed = self._store.read(mask_key(key))
        except ObjectMissingError as exc:
            if gva.has_entry_at(document, mask_name(key)):
                raise
            raise _NotAnnotatedError("JSON: it has no annotation, and there is no NPZ") from exc
        return visible_rows(document, read_mask(packed), self._image_of(key))

    def _image_of(self, key: str) -> VisibleImage:
        """The image beside a JSON; without one (`--image_mode none`) its likely name."""
        stem = stem_of(key)
        existing = self._store.existing_suffixes(stem)
        suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in existing), None)
        if suffix is None:
            return VisibleImage(key, stem + IMAGE_SUFFIXES[0], 1)
        try:
            orientation = read_header(self._store.read_range(stem + suffix, 0, _HEADER_BYTES), sys.maxsize).orientation
        except InputError:
            orientation = 1
        return VisibleImage(key, stem + suffix, orientation)
