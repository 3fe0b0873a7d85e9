"""A list of keys that takes the place of a listing: one a line, or a column of a CSV such as an S3 inventory."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sqlite3
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote_plus

from job.errors import ObjectError, UsageError
from job.storage.keys import JSON_SUFFIX, ordered
from job.storage.open import Address, new_process_id, protocol_of
from job.storage.store import Store
from job.system.watchdog import OnProgress

_PART_BYTES = 16 << 20
_BATCH = 10_000
_SHOWN = 200
"""Characters of a line in a message: what is no list may have lines of any length."""


@dataclass(frozen=True)
class InputList:
    """Where the list is and how it is read.

    Attributes:
        path: File or URL, as it was given.
        address: Of its folder.
        key: What it is called there; `.gz` is unpacked.
        column: Of a CSV: its name in the first line, or its number from 0; None for one key a line.
        sha256: Digest of the file as it is stored.
        input_url: Of the input; its part after the bucket is taken off keys of an inventory.
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
            on_progress: Told of every step.

        Raises:
            UsageError: A line that cannot be meant, no such column, or a list that cannot be unpacked.
            StorageError: Out of reach.
        """
        with (
            tempfile.TemporaryDirectory(prefix="sam3-list-") as folder,
            closing(sqlite3.connect(Path(folder) / "keys.sqlite")) as database,
        ):
            database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
            database.execute("CREATE TABLE keys (key BLOB PRIMARY KEY) WITHOUT ROWID")
            for batch in _batches(self._listed()):
                on_progress()
                database.executemany("INSERT OR IGNORE INTO keys VALUES (?)", batch)
            for (key,) in database.execute("SELECT key FROM keys ORDER BY key"):
                yield key.decode("utf-8", "surrogateescape")

    def _listed(self) -> Iterator[str]:
        with _list_errors(self.path):
            stream = _opened(self.address, self.key)
            if _without_query(self.path)[0].endswith(".gz"):
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
            lines = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
            yield from self._plain(lines) if self.column is None else self._column_of(lines, self.column)

    def _plain(self, lines: Iterable[str]) -> Iterator[str]:
        for number, line in enumerate(lines, start=1):
            key = line.rstrip("\r\n")
            if not key:
                continue
            if not key.endswith(JSON_SUFFIX):
                raise UsageError(
                    f"--input_list {self.path}, line {number}: {key[:_SHOWN]!r} is not the key of a JSON. Give keys "
                    "relative to the input, one a line, or --input_list_column for a CSV"
                )
            yield key.removeprefix("./")

    def _column_of(self, lines: Iterable[str], column: str) -> Iterator[str]:
        rows = csv.reader(lines)
        index = int(column) if column.isdigit() else self._named_column(next(rows, []), column)
        folder = self.input_url.partition("://")[2].partition("/")[2]
        prefix = f"{folder}/" if folder else ""
        for number, row in enumerate(rows, start=1):
            if not row:
                continue
            if index >= len(row):
                raise UsageError(f"--input_list {self.path}, row {number} has {len(row)} columns, no column {column}")
            key = unquote_plus(row[index])
            if key.endswith(JSON_SUFFIX) and key.startswith(prefix):
                yield key.removeprefix(prefix)

    def _named_column(self, header: list[str], column: str) -> int:
        if column not in header:
            raise UsageError(
                f"--input_list {self.path} has the columns {', '.join(header)}: no {column!r}. "
                "Give one of these, or a number from 0 when the file has no header"
            )
        return header.index(column)


def open_input_list(path: str, column: str | None, source: Address, input_url: str) -> InputList:
    """Look for the list and take its digest.

    Args:
        path: File or URL; of the kind of storage that the input is on, it is opened with the same options.
        column: See `InputList`.
        source: Of the input, with its options.
        input_url: See `InputList`.

    Raises:
        UsageError: There is no such list, or this user may not read it.
        StorageError: Out of reach.
    """
    address, key = _place(path, source)
    digest = hashlib.sha256()
    with _list_errors(path):
        stream = _opened(address, key)
        while part := stream.read(_PART_BYTES):
            digest.update(part)
    return InputList(path, address, key, column, digest.hexdigest(), input_url)


def _place(path: str, source: Address) -> tuple[Address, str]:
    """Folder and name; the query of a web address belongs to the name."""
    head, query = _without_query(path)
    folder, slash, name = head.rpartition("/")
    if not name:
        raise UsageError(f"--input_list {path} is a folder: give a file with one key a line, or a CSV")
    options = source.options if protocol_of(path) == protocol_of(source.url) else {}
    return Address(folder + slash if slash else ".", options), name + query


def _without_query(path: str) -> tuple[str, str]:
    """A web address and its `?…`; anywhere else a question mark is one letter of a name."""
    if protocol_of(path) not in {"http", "https"}:
        return path, ""
    head, mark, query = path.partition("?")
    return head, mark + query


def _opened(address: Address, key: str) -> BinaryIO:
    """Read a part at a time, so that the layer that retries has something to try again."""
    return cast(BinaryIO, io.BufferedReader(_Parts(address.open(new_process_id()), key), _PART_BYTES))


class _Parts(io.RawIOBase):
    """An object of a store as a stream."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer, or what the object still has."""
        part = self._store.read_range(self._key, self._position, len(buffer))
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


@contextmanager
def _list_errors(path: str) -> Iterator[None]:
    """What is wrong with the list itself is for the user to mend."""
    try:
        yield
    except (ObjectError, gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise UsageError(f"--input_list {path} cannot be read: {exc}") from exc


def _batches(keys: Iterable[str]) -> Iterator[list[tuple[bytes]]]:
    batch: list[tuple[bytes]] = []
    for key in keys:
        batch.append((ordered(key),))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch
