"""A list of keys that takes the place of a listing: one a line, or a column of a CSV such as an S3 inventory."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_plus

import fsspec

from job.errors import UsageError
from job.keys import JSON_SUFFIX, ordered
from job.liveness import Moved

_BLOCK_BYTES = 1 << 20
_BATCH = 10_000


@dataclass(frozen=True)
class InputList:
    """Where the list is and how it is read.

    Attributes:
        path: File or URL; `.gz` is unpacked.
        column: Of a CSV: its name in the first line, or its number from 0; None for one key a line.
        sha256: Digest of the file as it is stored.
        input_url: Of the input; its part after the bucket is taken off keys of an inventory.
    """

    path: str
    column: str | None
    sha256: str
    input_url: str

    def json_keys(self, moved: Moved = lambda: None) -> Iterator[str]:
        """JSON keys relative to the input, ascending, each once; sorted on disk, so memory stays bounded.

        Args:
            moved: Told of every step.

        Raises:
            UsageError: A line that cannot be meant, or no such column.
        """
        with (
            tempfile.TemporaryDirectory(prefix="sam3-list-") as folder,
            closing(sqlite3.connect(Path(folder) / "keys.sqlite")) as database,
        ):
            database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
            database.execute("CREATE TABLE keys (key BLOB PRIMARY KEY) WITHOUT ROWID")
            for batch in _batches(self._listed()):
                moved()
                database.executemany("INSERT OR IGNORE INTO keys VALUES (?)", batch)
            for (key,) in database.execute("SELECT key FROM keys ORDER BY key"):
                yield key.decode("utf-8", "surrogateescape")

    def _listed(self) -> Iterator[str]:
        with _open(self.path) as stream:
            lines = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
            yield from self._plain(lines) if self.column is None else self._column_of(lines, self.column)

    def _plain(self, lines: Iterable[str]) -> Iterator[str]:
        for number, line in enumerate(lines, start=1):
            key = line.rstrip("\r\n")
            if not key:
                continue
            if not key.endswith(JSON_SUFFIX):
                raise UsageError(
                    f"--input_list {self.path}, line {number}: {key!r} is not the key of a JSON. Give keys relative to "
                    "the input, one a line, or --input_list_column for a CSV"
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


def open_input_list(path: str, column: str | None, input_url: str) -> InputList:
    """Look for the list and take its digest.

    Raises:
        UsageError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with fsspec.open(path, "rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except (OSError, ValueError, ImportError) as exc:
        raise UsageError(f"--input_list {path} cannot be read: {exc}") from exc
    return InputList(path, column, digest.hexdigest(), input_url)


def _open(path: str) -> BinaryIO:
    stream: BinaryIO = fsspec.open(path, "rb").open()
    return gzip.GzipFile(fileobj=stream) if path.endswith(".gz") else stream  # type: ignore[return-value]


def _batches(keys: Iterable[str]) -> Iterator[list[tuple[bytes]]]:
    batch: list[tuple[bytes]] = []
    for key in keys:
        batch.append((ordered(key),))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch
