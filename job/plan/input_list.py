"""A list of keys that replaces a listing: one key a line, or a column of a CSV such as an S3 inventory."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import logging
import re
import sqlite3
import tempfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote_plus

from job.errors import ObjectError, UsageError
from job.storage.keys import JSON_SUFFIX, ordered
from job.storage.open import Address, locate_file, new_process_id, protocol_of
from job.storage.store import Store
from job.system.watchdog import OnProgress

logger = logging.getLogger(__name__)

_PART_BYTES = 16 << 20
_BATCH = 10_000
_SHOWN = 200
"""Characters of a line in a message: a file that is no list may have lines of any length."""
_MAX_LINE = 1 << 20
"""Characters of a line that is read; a key has at most 1,024 bytes, and an inventory some more columns."""
_MAX_COLUMN_DIGITS = 6
_CHECKED_AT_ONCE = 1000
"""Keys that are checked when the list is opened, before a run begins; the planner checks all."""
_NOT_RELATIVE = re.compile(r"(?P<url>[A-Za-z][A-Za-z0-9+.-]*://)|(?P<absolute>/)|.*(?P<backslash>\\)", re.DOTALL)
_KIND = {"url": "a URL", "absolute": "an absolute path", "backslash": "a path with a backslash"}
_BOOLEANS = frozenset({"true", "false"})


@dataclass(frozen=True)
class _Columns:
    """Indexes of the columns of a CSV.

    Attributes:
        key: Of the key.
        is_latest: Of the flag that is true for the current version of a key; None in a list without versions.
        is_delete_marker: Of the flag that is true for a version that marks a deletion; None likewise.
    """

    key: int
    is_latest: int | None = None
    is_delete_marker: int | None = None

    def is_current(self, row: list[str]) -> bool:
        """Whether a row is the current version of an object that exists."""
        return self._flag(row, self.is_latest) != "false" and self._flag(row, self.is_delete_marker) != "true"

    @staticmethod
    def _flag(row: list[str], index: int | None) -> str:
        return row[index].strip().lower() if index is not None and index < len(row) else ""


@dataclass(frozen=True)
class InputList:
    """Where the list is and how it is read.

    Rows of an S3 inventory that are old versions or delete markers are left out. Their columns are `IsLatest` and
    `IsDeleteMarker` (in any spelling of a header: `is_latest`), or, without a header, the fourth and fifth: an
    inventory of all versions begins with Bucket, Key, VersionId, IsLatest, IsDeleteMarker
    (docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html).

    Attributes:
        path: File or URL, as given.
        address: Of its folder.
        key: Its name in the folder; `.gz` is decompressed.
        column: Of a CSV: its name in the first line, or its number from 0; None for one key a line.
        sha256: Digest of the file as it is stored.
        input_url: Of the input; its part after the bucket is removed from keys of an inventory.
    """

    path: str
    address: Address
    key: str
    column: str | None
    sha256: str
    input_url: str

    def json_keys(self, on_progress: OnProgress = lambda: None) -> Iterator[str]:
        """JSON keys relative to the input, ascending, each once; sorted on disk, so memory stays bounded.

        Args:
            on_progress: Called at every step.

        Raises:
            UsageError: A line is not a relative key of a JSON, a column is missing, or decompression fails.
            StorageError: The list is out of reach.
        """
        with (
            tempfile.TemporaryDirectory(prefix="sam3-list-") as folder,
            closing(sqlite3.connect(Path(folder) / "keys.sqlite")) as database,
        ):
            database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
            database.execute("CREATE TABLE keys (key BLOB PRIMARY KEY) WITHOUT ROWID")
            left_out: Counter[str] = Counter()
            for batch in _batches(self._listed(left_out)):
                on_progress()
                database.executemany("INSERT OR IGNORE INTO keys VALUES (?)", batch)
            if left_out["rows"]:
                logger.info("Left out %d old versions and delete markers of %s", left_out["rows"], self.path)
            for (key,) in database.execute("SELECT key FROM keys ORDER BY key"):
                yield key.decode("utf-8", "surrogateescape")

    def check_first_keys(self) -> None:
        """Read the first keys; raises as `json_keys`, before a run begins."""
        with closing(self._listed(Counter())) as keys:
            for _ in islice(keys, _CHECKED_AT_ONCE):
                pass

    def _listed(self, left_out: Counter[str]) -> Generator[str]:
        with _list_errors(self.path):
            stream = _opened(self.address, self.key)
            if _without_query(self.path)[0].endswith(".gz"):
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
            lines = self._lines(io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline=""))
            yield from self._plain(lines) if self.column is None else self._column_of(lines, self.column, left_out)

    def _lines(self, stream: io.TextIOWrapper) -> Iterator[str]:
        """Lines of bounded length: a compressed file without line ends may be of any size."""
        number = 0
        while line := stream.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise UsageError(
                    f"--input_list {self.path}, line {number} has more than {_MAX_LINE} characters: give one key a line"
                )
            yield line

    def _plain(self, lines: Iterable[str]) -> Iterator[str]:
        for number, line in enumerate(lines, start=1):
            key = line.rstrip("\r\n").removeprefix("./")
            if not key:
                continue
            self._check_relative(key, number)
            if not key.endswith(JSON_SUFFIX):
                raise UsageError(
                    f"--input_list {self.path}, line {number}: {key[:_SHOWN]!r} is not the key of a JSON. Give keys "
                    "relative to the input, one a line, or --input_list_column for a CSV"
                )
            yield key

    def _column_of(self, lines: Iterable[str], column: str, left_out: Counter[str]) -> Iterator[str]:
        rows = csv.reader(lines)
        first = next(rows, [])
        columns = self._columns(first, column)
        for row in chain([first], rows) if _is_number(column) else rows:
            if not row:
                continue
            if columns.key >= len(row):
                raise UsageError(
                    f"--input_list {self.path}, line {rows.line_num} has {len(row)} columns, no column {column}"
                )
            key = self._relative_key(unquote_plus(row[columns.key]), rows.line_num)
            if key is None:
                continue
            if columns.is_current(row):
                yield key
            else:
                left_out["rows"] += 1

    def _relative_key(self, key: str, line: int) -> str | None:
        """The key relative to the input, or None for what is no JSON of the input."""
        folder = self.input_url.partition("://")[2].partition("/")[2]
        prefix = f"{folder}/" if folder else ""
        if not key.endswith(JSON_SUFFIX):
            return None
        is_inside = key.startswith(prefix)
        if is_inside or not _is_foreign_key(key):
            self._check_relative(key.removeprefix(prefix), line)
        return key.removeprefix(prefix) if is_inside else None

    def _check_relative(self, key: str, line: int) -> None:
        found = _NOT_RELATIVE.match(key)
        if found is not None:
            raise UsageError(
                f"--input_list {self.path}, line {line}: {key[:_SHOWN]!r} is {_KIND[found.lastgroup or '']}. Give keys "
                f"relative to the input {self.input_url}, with `/` between folders, such as folder/a.json"
            )

    def _columns(self, first: list[str], column: str) -> _Columns:
        """Find the columns by the header, or without one by the first row."""
        if not _is_number(column):
            names = {name.lower().replace("_", ""): index for index, name in reversed(list(enumerate(first)))}
            return _Columns(self._named_column(first, column), names.get("islatest"), names.get("isdeletemarker"))
        has_versions = column == "1" and len(first) > 4 and {flag.lower() for flag in first[3:5]} <= _BOOLEANS
        return _Columns(1, 3, 4) if has_versions else _Columns(int(column))

    def _named_column(self, header: list[str], column: str) -> int:
        if column not in header:
            raise UsageError(
                f"--input_list {self.path} has the columns {', '.join(header)}: no {column!r}. "
                "Give one of these, or a number from 0 when the file has no header"
            )
        return header.index(column)


def _is_number(column: str) -> bool:
    return column.isascii() and column.isdigit() and len(column) <= _MAX_COLUMN_DIGITS


def _is_foreign_key(key: str) -> bool:
    """Whether a key of an inventory is one of another folder, rather than a path or URL of the input."""
    found = _NOT_RELATIVE.match(key)
    return found is None or found.lastgroup == "backslash"


def open_input_list(path: str, column: str | None, source: Address, input_url: str) -> InputList:
    """Find the list, compute its digest and check its first keys.

    Args:
        path: File or URL; on the same kind of storage as the input, it is opened with the same options.
        column: See `InputList`.
        source: Address of the input, with its options.
        input_url: See `InputList`.

    Raises:
        UsageError: There is no such list, this user may not read it, or its first lines are no relative keys.
        StorageError: The list is out of reach.
    """
    address, key = _place(path, source)
    digest = hashlib.sha256()
    with _list_errors(path):
        stream = _opened(address, key)
        while part := stream.read(_PART_BYTES):
            digest.update(part)
    input_list = InputList(path, address, key, column, digest.hexdigest(), input_url)
    input_list.check_first_keys()
    return input_list


def _place(path: str, source: Address) -> tuple[Address, str]:
    """Folder and name; the query of a web URL is part of the name."""
    address, name = locate_file(path, source)
    if not name:
        raise UsageError(f"--input_list {path} is a folder: give a file with one key a line, or a CSV")
    return address, name


def _without_query(path: str) -> tuple[str, str]:
    """Split a web URL into path and `?…`; in any other path a question mark is part of the name."""
    if protocol_of(path) not in {"http", "https"}:
        return path, ""
    head, mark, query = path.partition("?")
    return head, mark + query


def _opened(address: Address, key: str) -> BinaryIO:
    """Read in parts, so that the retry layer can retry each part."""
    return cast(BinaryIO, io.BufferedReader(_Parts(address.open(new_process_id()), key), _PART_BYTES))


class _Parts(io.RawIOBase):
    """An object of a store as a stream."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as the object has bytes left."""
        part = self._store.read_range(self._key, self._position, len(buffer))
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


@contextmanager
def _list_errors(path: str) -> Iterator[None]:
    """Map problems of the list itself to `UsageError`."""
    try:
        yield
    except (ObjectError, gzip.BadGzipFile, EOFError, zlib.error, csv.Error) as exc:
        raise UsageError(f"--input_list {path} cannot be read: {exc}") from exc


def _batches(keys: Iterable[str]) -> Iterator[list[tuple[bytes]]]:
    batch: list[tuple[bytes]] = []
    for key in keys:
        batch.append((ordered(key),))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch
