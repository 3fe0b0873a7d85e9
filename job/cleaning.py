"""What ended runs have left behind that nobody needs any more: shards, heartbeats, temporary files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from job.concurrent import iter_in_threads
from job.run import runs_of
from job.store import PRIVATE_FOLDER, Store

STALE_S = 24 * 3600.0


@dataclass(frozen=True)
class Leftover:
    """A folder's worth of objects: what it is, the keys, their bytes."""

    what: str
    keys: Sequence[str]
    size: int


def find_leftovers(store: Store) -> Iterator[Leftover]:
    """Plans' shards and heartbeats of runs that have ended, and temporary files older than a day.

    `run.json`, `plan.json`, journals, markers, failure tables and ends stay: they tell where every output is from.
    """
    for run in runs_of(store):
        if run.end() is None:
            continue
        for folder in store.folders(run.key()):
            if folder == "workers" or folder.startswith("plan-"):
                what = "heartbeats" if folder == "workers" else "shards of the plan"
                yield _leftover(store, f"{what} of run {run.name}", run.key(folder))
    now_s = store.now_s()
    stale = [item for item in store.walk(f"{PRIVATE_FOLDER}/tmp") if now_s - item.modified_s > STALE_S]
    if stale:
        yield Leftover("temporary files", [item.key for item in stale], sum(item.size for item in stale))


def remove(store: Store, leftover: Leftover) -> None:
    """Delete its objects."""
    for _ in iter_in_threads(store.delete, leftover.keys):
        pass


def _leftover(store: Store, what: str, folder: str) -> Leftover:
    found = list(store.walk(folder))
    return Leftover(what, [item.key for item in found], sum(item.size for item in found))
