"""Failed inputs and their reasons, from all runs of an output; stored on disk, because there may be millions."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec

from job.run.decoding import decoding
from job.run.history import runs_of
from job.run.journal import FAILED, read_history
from job.run.run import Run
from job.storage.store import Store, read_if_there
from job.system.threads import iter_in_threads
from job.worker.shards import FailedInput

_THREADS = 4
_FAILED_INPUT = msgspec.json.Decoder(FailedInput)


class KnownFailures:
    """Reasons by key; newer runs replace the reasons of older runs."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE failures (key TEXT PRIMARY KEY, reason TEXT) WITHOUT ROWID")

    def reason(self, key: str) -> str | None:
        """Return the failure reason of a key (as `job.storage.keys.printable` spells it), or None if it has none."""
        found = self._database.execute("SELECT reason FROM failures WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def add_table(self, raw: bytes) -> None:
        """Add the `failures.jsonl` of an ended run."""
        for line in io.BytesIO(raw):
            self._add(_FAILED_INPUT.decode(line))

    def add_journal(self, run: Run) -> None:
        """Add the failures in the journal of a run without a table; inputs that it stored are not failures."""
        shards = run.store.list_dirs(run.key("journal"))
        for history in iter_in_threads(lambda shard: read_history(run, shard), shards, _THREADS):
            for row in history.results.values():
                if row.result == FAILED:
                    self._add(FailedInput(json=row.json, reason=row.reason))
                else:
                    self._database.execute("DELETE FROM failures WHERE key = ?", (row.json,))

    def _add(self, failed: FailedInput) -> None:
        self._database.execute("INSERT OR REPLACE INTO failures VALUES (?, ?)", (failed.json, failed.reason))


@contextmanager
def known_failures(target: Store) -> Iterator[KnownFailures]:
    """Collect the failures of all runs of an output.

    Runs that ended in order are read by table, others by journal. For each input, runs before the newest run that
    processed all of it are skipped: that run has a newer result for every input that failed in them.

    Raises:
        RunConflictError: A journal or table was written by an incompatible version.
    """
    with closing(sqlite3.connect("", check_same_thread=False)) as database:  # "": a temporary file that SQLite removes
        database.execute("PRAGMA journal_mode=OFF")
        failures = KnownFailures(database)
        for run, has_table in reversed(list(_runs_with_failures(target))):
            table = read_if_there(target, run.key("failures.jsonl")) if has_table else None
            if table is None:
                failures.add_journal(run)
            else:
                with decoding(f"{target.url}/{run.key('failures.jsonl')}"):
                    failures.add_table(table)
        yield failures


def _runs_with_failures(target: Store) -> Iterator[tuple[Run, bool]]:
    """Newest first; with each run, whether it has a failure table."""
    complete_inputs: set[str] = set()
    for run in runs_of(target):
        if run.spec.input_url in complete_inputs:
            continue
        end = run.end()
        has_table = end is not None and end.outcome != "superseded"
        yield run, has_table
        if has_table and run.spec.selects_all:
            complete_inputs.add(run.spec.input_url)
