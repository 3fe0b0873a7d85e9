"""Which inputs have failed and why, as far as the runs of an output tell; kept on disk, for there may be millions."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec

from job.run.history import runs_of
from job.run.journal import FAILED, read_history
from job.run.run import Run
from job.storage.store import Store, read_if_there
from job.system.threads import iter_in_threads
from job.worker.shards import FailedInput

_THREADS = 4


class KnownFailures:
    """Reasons by key, those of younger runs in place of those of older ones."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE failures (key TEXT PRIMARY KEY, reason TEXT) WITHOUT ROWID")

    def reason(self, key: str) -> str | None:
        """Return the failure reason of a key (as `job.storage.keys.printable` spells it), or None if it has none."""
        found = self._database.execute("SELECT reason FROM failures WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def learn_from_table(self, raw: bytes) -> None:
        """Take in the `failures.jsonl` of a run that has ended."""
        decode = msgspec.json.Decoder(FailedInput).decode
        for line in io.BytesIO(raw):
            self._add(decode(line))

    def learn_from_journal(self, run: Run) -> None:
        """Take in what a run has done that never came to a table: what it has stored has not failed."""
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
    """Ask the runs of an output.

    A run that ended in order tells by its table, another one by its journal. Of the runs of one input, those before
    the youngest that did all of it are not asked: what they failed on, it has failed on as well or has stored.

    Raises:
        RunConflictError: A journal is not of this version.
    """
    with closing(sqlite3.connect("", check_same_thread=False)) as database:  # "": a file that SQLite itself removes
        database.execute("PRAGMA journal_mode=OFF")
        failures = KnownFailures(database)
        for run, has_table in reversed(list(_runs_that_tell(target))):
            table = read_if_there(target, run.key("failures.jsonl")) if has_table else None
            if table is None:
                failures.learn_from_journal(run)
            else:
                failures.learn_from_table(table)
        yield failures


def _runs_that_tell(target: Store) -> Iterator[tuple[Run, bool]]:
    """Youngest first; and whether each has a table of its failures."""
    done_whole: set[str] = set()
    for run in runs_of(target):
        if run.spec.input_url in done_whole:
            continue
        end = run.end()
        has_table = end is not None and end.outcome != "superseded"
        yield run, has_table
        if has_table and run.spec.selects_all:
            done_whole.add(run.spec.input_url)
