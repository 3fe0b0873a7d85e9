"""Removal of what ended runs no longer need: shards, heartbeats, temporary files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from job.run.heartbeat import heartbeats, read_beat
from job.run.history import runs_of
from job.run.instance_parts import INSTANCES_FOLDER, journal_key
from job.run.run import Run
from job.run.spec import RunEnd
from job.storage.keys import ordered
from job.storage.local.store import remove_empty_dirs
from job.storage.store import PRIVATE_FOLDER, Store, StoredObject
from job.system.threads import iter_in_threads, map_in_threads

STALE_S = 24 * 3600.0
INACTIVE_AFTER_S = 600.0
"""A disconnected worker writes nothing later than 60 s after the end of its run; the rest allows for clock skew."""


@dataclass(frozen=True)
class Leftover:
    """Unneeded objects: a description, their keys and bytes, and the folders that hold nothing else."""

    what: str
    keys: Sequence[str]
    size: int
    folders: Sequence[str]


def find_leftovers(store: Store) -> Iterator[Leftover]:
    """Find shards and heartbeats of ended runs, and temporary files older than a day.

    `run.json`, `plan.json`, journals, instance tables, markers, failure tables and `end.json` stay: they record the
    instances and the origin of every output. Parts of a table that no result row names are leftovers.
    A run is kept while another one may have to take over its keys, or while a worker of it may be alive.
    """
    runs = runs_of(store)
    ends = dict(zip((run.name for run in runs), map_in_threads(lambda run: run.end(), runs), strict=True))
    for run in runs:
        if ends[run.name] is None or not _is_taken_over(run, ends) or not _is_inactive(run):
            continue
        for folder in store.list_dirs(run.key()):
            if folder == "workers" or folder.startswith("plan-"):
                what = "heartbeats" if folder == "workers" else "shards of the plan"
                keys, size = list[str](), 0
                for item in store.list(run.key(folder)):  # a plan may have millions of shards
                    keys.append(item.key)
                    size += item.size
                yield Leftover(f"{what} of run {run.name}", keys, size, [run.key(folder)])
        unnamed = list(unnamed_parts(run))
        if unnamed:
            folders = sorted(
                {item.key.rpartition("/")[0] for item in unnamed} | {run.key(INSTANCES_FOLDER)}, reverse=True
            )
            what = f"unused parts of the instance table of run {run.name}"
            yield Leftover(what, [item.key for item in unnamed], sum(item.size for item in unnamed), folders)
    stale = [item for item in store.list(f"{PRIVATE_FOLDER}/tmp") if time.time() - item.modified_s > STALE_S]
    if stale:
        folders = sorted({item.key.rpartition("/")[0] for item in stale} - {f"{PRIVATE_FOLDER}/tmp"}, reverse=True)
        yield Leftover("temporary files", [item.key for item in stale], sum(item.size for item in stale), folders)


def unnamed_parts(run: Run) -> Iterator[StoredObject]:
    """Parts of the instance table without a journal part of the same name: no result row names them."""
    journal = (item.key for item in run.store.list(run.key("journal")))
    named = next(journal, None)
    for item in run.store.list(run.key(INSTANCES_FOLDER)):
        wanted = journal_key(run, item.key)
        while named is not None and ordered(named) < ordered(wanted):
            named = next(journal, None)
        if named != wanted:
            yield item


def remove(store: Store, leftover: Leftover) -> None:
    """Delete the objects of a leftover."""
    for _ in iter_in_threads(store.delete, leftover.keys):
        pass
    remove_empty_dirs(store, *leftover.folders)


def _is_taken_over(run: Run, ends: Mapping[str, RunEnd | None]) -> bool:
    """Whether the superseding run, if there is one, has a plan: until then it reads the journal of this run.

    A superseding run without a plan that was superseded itself leaves that to its successor
    (`job.run.history.superseded_by`).
    """
    name: str | None = run.name
    while name is not None:
        end = ends.get(name)
        if end is None:
            return name not in ends  # deleted by hand: no process uses it
        name = end.superseded_by or None
        if name is None or run.store.stat(Run(run.store, name, run.spec).key("plan.json")) is not None:
            return True
    return True


def _is_inactive(run: Run) -> bool:
    """Whether no worker of an ended run can be alive: all exited in order, or the end is old."""
    ended = run.store.stat(run.key("end.json"))
    if ended is None or time.time() - ended.modified_s > INACTIVE_AFTER_S:
        return True
    beats = map_in_threads(lambda found: read_beat(run, found.key), heartbeats(run))
    return all(beat is None or beat.activity == "left" for beat in beats)
