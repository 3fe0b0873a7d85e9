"""What must hold of a world at rest, whatever happened on the way. Each law yields a sentence for every breach."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

import msgspec

from job.plan.plan import Plan
from job.run.journal import FAILED, ResultRow, Row
from job.run.spec import RunEnd
from job.worker.shards import Marker
from tests.protocol.explorer import Outcome
from tests.protocol.process import mask_digest, tag_of
from tests.protocol.world import MOST_GHOST_S, Event

RUNS = "out/_sam3/runs/"
FRESH_S = 30.0
"""A put that lands this long after its guard has let it pass was in flight while its process or its machine slept."""
_ONCE = re.compile(r"/(run|plan|end)\.json$|/done/[^/]+$")


class Rest:
    """A world at rest, read."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.world = outcome.world
        self.events = outcome.world.events

    @cached_property
    def runs(self) -> list[str]:
        """Names, oldest first."""
        found = [
            (modified_s, key.removeprefix(RUNS).partition("/")[0])
            for key, (_, modified_s) in self.world.objects.items()
            if key.startswith(RUNS) and key.endswith("/run.json")
        ]
        return [name for _, name in sorted(found)]

    def object(self, run: str, name: str) -> bytes | None:
        """One of a run's files."""
        return self.world.objects.get(f"{RUNS}{run}/{name}", (None, 0))[0]

    def end(self, run: str) -> RunEnd | None:
        raw = self.object(run, "end.json")
        return None if raw is None else msgspec.json.decode(raw, type=RunEnd)

    def plan(self, run: str) -> Plan | None:
        raw = self.object(run, "plan.json")
        return None if raw is None else msgspec.json.decode(raw, type=Plan)

    def event(self, what: str, key: str) -> Event | None:
        """The first of its kind."""
        return next((event for event in self.events if event.what == what and event.key == key), None)

    @cached_property
    def inputs(self) -> list[str]:
        return sorted(key.removeprefix("in/") for key in self.world.objects if re.fullmatch(r"in/.*\.json", key))

    def output(self, key: str) -> str:
        raw, _ = self.world.objects.get(f"out/{key}", (b"", 0))
        return raw.decode()

    def rows(self, run: str) -> Iterator[tuple[Event, ResultRow]]:
        """Result rows with the event that stored their part."""
        for event in self.events:
            if event.what == "put" and event.key.startswith(f"{RUNS}{run}/journal/"):
                for row in msgspec.json.Decoder(Row).decode_lines(event.data):
                    if isinstance(row, ResultRow):
                        yield event, row

    def run_of(self, actor: int) -> str | None:
        """The run that a process works for, as far as it has written anything there."""
        keys = (event.key for event in self.events if event.actor == actor and event.key.startswith(RUNS))
        return next((key.removeprefix(RUNS).partition("/")[0] for key in keys if "/workers/" in key), None)

    @cached_property
    def puts(self) -> list[tuple[Event, str]]:
        """Everything put beside the inputs' images: masks, JSONs, images; with its run."""
        return [
            (event, self.run_of(event.actor) or "?")
            for event in self.events
            if event.what == "put" and event.key.startswith("out/") and not event.key.startswith("out/_sam3/")
        ]


def is_late(event: Event) -> bool:
    """Whether it was in flight for longer than a request is that somebody waits for."""
    if event.is_ghost:
        return True
    return event.guarded_s is not None and event.time_s - event.guarded_s > FRESH_S - MOST_GHOST_S / 2


def breaches(outcome: Outcome) -> list[str]:
    """Every law that does not hold."""
    rest = Rest(outcome)
    laws = (
        _foreseen, _created_once, _superseded_by_younger, _ended, _counted, _few_late_puts, _one_live_run,
        _nothing_lost, _whole_pairs, _done_once,
    )  # fmt: skip
    return [f"{law.__name__.strip('_')}: {breach}" for law in laws for breach in law(rest)]


def _foreseen(rest: Rest) -> Iterator[str]:
    for seat in rest.outcome.seats:
        for actor in seat.actors:
            if actor.error is not None:
                yield f"{actor.name} raised {actor.error!r}"


def _created_once(rest: Rest) -> Iterator[str]:
    seen = set()
    for event in rest.events:
        if _ONCE.search(event.key) and event.key.startswith(RUNS) and event.what in ("put", "create"):
            if event.what == "put" or event.key in seen:
                yield f"{event.key} written by {event.what} at {event.time_s}"
            seen.add(event.key)


def _superseded_by_younger(rest: Rest) -> Iterator[str]:
    for run in rest.runs:
        end = rest.end(run)
        if end is None or end.outcome != "superseded":
            continue
        if end.superseded_by not in rest.runs or rest.runs.index(end.superseded_by) <= rest.runs.index(run):
            yield f"{run} superseded by {end.superseded_by}, in order {rest.runs}"


def _ended(rest: Rest) -> Iterator[str]:
    ends = {run: rest.end(run) for run in rest.runs}
    for run, end in ends.items():
        if end is None and not _is_refused(rest, run):
            yield f"{run} has no end; exits {[(seat.place, seat.exit_code) for seat in rest.outcome.seats]}"
    if not any(end is not None and end.outcome != "superseded" for end in ends.values()):
        yield f"no run has come to its own end: {ends}"


def _is_refused(rest: Rest, run: str) -> bool:
    """Whether all its processes were refused because an older run is running."""
    last = [seat.actors[-1] for seat in rest.outcome.seats if rest.run_of(seat.actors[-1].number) == run]
    return all("still running" in actor.message for actor in last)


def _counted(rest: Rest) -> Iterator[str]:
    for run in rest.runs:
        plan, end = rest.plan(run), rest.end(run)
        if plan is None or end is None or end.outcome == "superseded":
            continue
        sums: dict[str, int] = {}
        for shard in plan.shards:
            raw = rest.object(run, f"done/{shard.name}.json")
            totals = {} if raw is None else msgspec.json.decode(raw, type=Marker).totals
            if sum(totals.values()) != shard.inputs:
                yield f"marker {run}/{shard.name} counts {totals} of {shard.inputs}"
            for result, count in totals.items():
                sums[result] = sums.get(result, 0) + count
        if (end.annotated, end.failed) != (sums.get("annotated", 0), sums.get(FAILED, 0)):
            yield f"{run} ended with {end}, its markers say {sums}"
        if end.inputs_listed != len(rest.inputs):
            yield f"{run} listed {end.inputs_listed} of {len(rest.inputs)}"


def _few_late_puts(rest: Rest) -> Iterator[str]:
    late: dict[int, int] = {}
    for event, run in rest.puts:
        ended = rest.event("create", f"{RUNS}{run}/end.json")
        if ended is not None and event.time_s > ended.time_s + FRESH_S:
            late[event.actor] = late.get(event.actor, 0) + 1
    for actor, count in late.items():
        if count > 1:
            yield f"{rest.outcome.actor(actor).name} put {count} objects long after the end of its run"


def _one_live_run(rest: Rest) -> Iterator[str]:
    """Once a run has begun to list the output, older runs put no more but what was in flight."""
    listed: dict[str, float] = {}
    for event in rest.events:
        run = rest.run_of(event.actor)
        if event.what == "list" and event.key == "out/" and run is not None:
            listed[run] = event.time_s
    for event, run in rest.puts:
        younger = rest.runs[rest.runs.index(run) + 1 :]
        plans = {name: rest.event("create", f"{RUNS}{name}/plan.json") for name in younger}
        for name, planned in plans.items():
            if planned is not None and listed[name] < event.time_s and not is_late(event):
                yield f"{run} put {event.key} at {event.time_s}, after younger {name} listed at {listed[name]}"
                return


def _suffixes(key: str) -> tuple[str, str, str]:
    stem = key.removesuffix(".json")
    return stem + ".jpg", stem + ".npz", key


def _nothing_lost(rest: Rest) -> Iterator[str]:
    failed = {row.json for run in rest.runs for _, row in rest.rows(run) if row.result == FAILED}
    for key in rest.inputs:
        if not all(rest.output(name) for name in _suffixes(key)) and key not in failed:
            yield f"{key} has neither outputs nor a failed row"


def _whole_pairs(rest: Rest) -> Iterator[str]:
    """Mask and JSON by the same options; a pair that is not must be found by `audit --deep`, and have an excuse."""
    last = [run for run in rest.runs if (end := rest.end(run)) is not None and end.outcome != "superseded"][-1:]
    overridden = _overriding_tags(rest, last[0]) if last else None
    for key in rest.inputs:
        _, mask, _ = _suffixes(key)
        npz_tag, json_tag = rest.output(mask).rpartition(" ")[2], rest.output(key).rpartition(" ")[2]
        is_torn = npz_tag != json_tag and bool(npz_tag and json_tag)
        is_old = overridden is not None and json_tag not in overridden and not _has_failed(rest, last[0], key)
        if not (is_torn or is_old):
            continue
        if not _is_named_by_audit(rest, key):
            yield f"{key}: mask {npz_tag}, JSON {json_tag}, and no audit sees it"
        if not (_has_late_put(rest, key) or npz_tag.partition("-")[0] == json_tag.partition("-")[0]):
            yield f"{key}: mask {npz_tag}, JSON {json_tag}, without a late put"


def _overriding_tags(rest: Rest, run: str) -> set[str] | None:
    seats = [seat for seat in rest.outcome.seats if any(rest.run_of(actor.number) == run for actor in seat.actors)]
    if not seats or not seats[0].place.launch.override:
        return None
    return {tag_of(seat.place.launch.threshold, seat.place.pool.precision) for seat in seats}


def _has_failed(rest: Rest, run: str, key: str) -> bool:
    return any(row.json == key and row.result == FAILED for _, row in rest.rows(run))


def _has_late_put(rest: Rest, key: str) -> bool:
    return any(event.key in {f"out/{name}" for name in _suffixes(key)} and is_late(event) for event, _ in rest.puts)


def _is_named_by_audit(rest: Rest, key: str) -> bool:
    """Mask digest and scores are not those of one row of the newest run with rows for that key."""
    _, mask, _ = _suffixes(key)
    digest, tag = mask_digest(rest.output(mask).encode()), rest.output(key).rpartition(" ")[2]
    for run in reversed(rest.runs):
        rows = [row for _, row in rest.rows(run) if row.json == key]
        if rows:
            return not any(row.mask_sha256 == digest and tag in row.scores for row in rows)
    return False


def _done_once(rest: Rest) -> Iterator[str]:
    """What has a stored row is not done again by a process that began later."""
    stored: dict[tuple[str, str], float] = {}
    for run in rest.runs:
        for event, row in rest.rows(run):
            stored.setdefault((run, row.json), event.time_s)
    for event, run in rest.puts:
        if event.key.endswith(".json"):
            at_s = stored.get((run, event.key.removeprefix("out/")))
            actor = rest.outcome.actor(event.actor)
            if at_s is not None and at_s < actor.started_s:
                yield f"{actor.name} did {event.key} again, which has a row since {at_s}"
