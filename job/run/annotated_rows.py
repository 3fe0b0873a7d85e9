"""The valid journal rows of annotated images: those of the newest run that annotated an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from job.run.history import runs_of
from job.run.journal import ANNOTATED, ResultRow, decode_rows
from job.run.run import Run
from job.storage.keys import ordered
from job.storage.store import Store
from job.system.threads import map_in_threads

_THREADS = 8


@dataclass(frozen=True)
class AnnotatedRows:
    """What the newest run that annotated an image has recorded of it.

    Attributes:
        run: The run.
        shard: Name of the shard that holds the image.
        rows: The annotated rows of the image, at least one; more if several processes have annotated it.
    """

    run: Run
    shard: str
    rows: tuple[ResultRow, ...]

    def valid_row(self, mask_sha256: Callable[[], str]) -> ResultRow | None:
        """The row of the stored outputs.

        Args:
            mask_sha256: Gives the digest of the stored mask; only called where the rows differ.

        Returns:
            The row, or None if none of several rows has that digest.
        """
        first = self.rows[0]
        if all((row.mask_sha256, row.scores) == (first.mask_sha256, first.scores) for row in self.rows):
            return first
        stored = mask_sha256()
        return next((row for row in self.rows if row.mask_sha256 == stored), None)


class NewestRows:
    """Annotated rows by key, requested in ascending order; one shard of each run is in memory.

    Attributes:
        runs: All runs of the output, youngest first.
    """

    def __init__(self, store: Store) -> None:
        self.runs = tuple(runs_of(store))
        self._cursors = [_RunRows(run) for run in self.runs]

    def of(self, key: str) -> AnnotatedRows | None:
        """Rows of an image in the newest run that annotated it; None if no run has a row."""
        return next((found for cursor in self._cursors if (found := cursor.of(key)) is not None), None)


class _RunRows:
    """The annotated rows of one run, shard by shard; shards hold ascending ranges of keys."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shards = iter(run.store.list_dirs(run.key("journal")))
        self._shard = ""
        self._rows: dict[str, list[ResultRow]] | None = {}
        self._last = b""

    def of(self, key: str) -> AnnotatedRows | None:
        while self._rows is not None and self._last < ordered(key):
            self._load_next()
        rows = (self._rows or {}).get(key)
        return AnnotatedRows(self._run, self._shard, tuple(rows)) if rows else None

    def _load_next(self) -> None:
        """Only annotated rows count: a failed row may spell its key differently (`printable`), out of order."""
        shard = next(self._shards, None)
        if shard is None:
            self._rows = None
            return
        self._shard, self._rows = shard, _annotated_by_key(self._run, shard)
        self._last = max(map(ordered, self._rows), default=self._last)


def _annotated_by_key(run: Run, shard: str) -> dict[str, list[ResultRow]]:
    parts = [part.key for part in run.store.list(run.key("journal", shard))]
    by_key: dict[str, list[ResultRow]] = {}
    for rows in map_in_threads(lambda key: decode_rows(run, key), parts, _THREADS):
        for row in rows:
            if isinstance(row, ResultRow) and row.result == ANNOTATED:
                by_key.setdefault(row.json, []).append(row)
    return by_key
