"""Earlier runs of an output: older, unfinished and superseded ones."""

from __future__ import annotations

from dataclasses import dataclass

from job.run.run import OPTIONS_IN_OUTPUTS, RUNS_FOLDER, Run, list_runs, read_spec
from job.run.spec import RunEnd
from job.storage.store import Store
from job.system.threads import map_in_threads

_CLOCK_TOLERANCE_S = 5.0


@dataclass(frozen=True)
class SupersededRun:
    """An older run that a newer one supersedes, and its end if one is written."""

    run: Run
    end: RunEnd | None


def runs_before(run: Run) -> list[Run]:
    """Older runs of the same output, youngest first."""
    names = list_runs(run.store)
    return _with_spec(run.store, names[: names.index(run.name)][::-1])


def options_that_differ(run: Run) -> tuple[str, ...]:
    """Options that change bytes and differ in older runs, back to the last complete override run."""
    found: set[str] = set()
    for older in runs_before(run):
        found.update(name for name in OPTIONS_IN_OUTPUTS if getattr(older.spec, name) != getattr(run.spec, name))
        if older.spec.override and older.spec.selects_all and _has_succeeded(older):
            break
    return tuple(name for name in OPTIONS_IN_OUTPUTS if name in found)


def _has_succeeded(run: Run) -> bool:
    end = run.end()
    return end is not None and end.outcome == "succeeded"


def runs_of(store: Store) -> list[Run]:
    """All runs of an output, youngest first."""
    return _with_spec(store, list_runs(store)[::-1])


def unfinished_runs(store: Store) -> list[Run]:
    """Runs without an end, youngest first."""
    runs = runs_of(store)
    ends = map_in_threads(lambda run: run.end(), runs)
    return [run for run, end in zip(runs, ends, strict=True) if end is None]


def superseded_by(run: Run) -> list[SupersededRun]:
    """Older runs that this one supersedes, youngest first.

    These are the runs without an end; the runs that this one has ended (its planner may have died since); and the runs
    that one of these has ended without writing a plan, so that it never took over their unfinished inputs. A run that
    begins in the future is older too: the clock of the storage was set back since.
    """
    names = list_runs(run.store)
    here = names.index(run.name)
    older = _with_spec(run.store, [*_in_the_future(run.store, names[here + 1 :])[::-1], *names[:here][::-1]])
    ends = map_in_threads(lambda other: other.end(), older)
    superseded: list[SupersededRun] = []
    successors = {run.name}
    for other, end in zip(older, ends, strict=True):
        if end is None or end.superseded_by in successors:
            superseded.append(SupersededRun(other, end))
            if run.store.stat(other.key("plan.json")) is None:
                successors.add(other.name)
    return superseded


def _in_the_future(store: Store, names: list[str]) -> list[str]:
    """Those runs whose first file is younger than now, by the clock of the storage."""
    if not names:
        return []
    now_s = store.now_s()
    found = [(name, store.stat(f"{RUNS_FOLDER}/{name}/run.json")) for name in names]
    return [name for name, item in found if item is not None and item.modified_s > now_s + _CLOCK_TOLERANCE_S]


def _with_spec(store: Store, names: list[str]) -> list[Run]:
    specs = map_in_threads(lambda name: read_spec(store, name), names)
    return [Run(store, name, spec) for name, spec in zip(names, specs, strict=True) if spec is not None]
