"""The invariants of a finished simulation; each yields a message for every violation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import msgspec

from job.errors import InputError, ObjectMissingError
from job.formats.instance_reader import InstanceParts
from job.formats.instance_table import decode_part
from job.plan.plan import Plan, PlannedInput, PlannedShard
from job.run.annotated_rows import NewestRows
from job.run.journal import ANNOTATED, FAILED, ResultRow, Row
from job.run.spec import RunEnd
from job.worker.shards import Marker
from tests.protocol.explorer import Outcome
from tests.protocol.process import mask_digest, tag_of
from tests.protocol.world import MAX_GHOST_S, Event, StillStore

RUNS = "out/_sam3/runs/"
FRESH_S = 30.0
"""Maximum time between the guard's check and the put, unless the process or the machine slept."""
_ONCE = re.compile(r"/(run|plan|end)\.json$|/done/[^/]+$")


class FinalState:
    """Accessors for the final state of a simulation."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.world = outcome.world
        self.events = outcome.world.events

    @cached_property
    def runs(self) -> list[str]:
        """Names of the runs, oldest first."""
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

    def shards(self, run: str) -> list[PlannedShard]:
        """The shards that the parts of the plan list; none without a plan."""
        plan, found = self.plan(run), list[PlannedShard]()
        for part in () if plan is None else plan.parts:
            raw = self.object(run, f"plan-{plan.nonce}/{part.file}") if plan else None
            found += msgspec.json.Decoder(PlannedShard).decode_lines(raw or b"")
        return found

    def event(self, what: str, key: str) -> Event | None:
        """The first event of a kind on a key."""
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
        """The run of a process, if it has written a heartbeat."""
        keys = (event.key for event in self.events if event.actor == actor and event.key.startswith(RUNS))
        return next((key.removeprefix(RUNS).partition("/")[0] for key in keys if "/workers/" in key), None)

    @cached_property
    def puts(self) -> list[tuple[Event, str]]:
        """Puts of images, masks and JSON files with their run."""
        return [
            (event, self.run_of(event.actor) or "?")
            for event in self.events
            if event.what == "put" and event.key.startswith("out/") and not event.key.startswith("out/_sam3/")
        ]


def is_late(event: Event) -> bool:
    """Whether it was in flight for longer than a normal request."""
    if event.is_ghost:
        return True
    return event.guarded_s is not None and event.time_s - event.guarded_s > FRESH_S - MAX_GHOST_S / 2


def violations(outcome: Outcome) -> list[str]:
    """Messages of all violated invariants."""
    state = FinalState(outcome)
    invariants = (
        _no_unexpected_errors, _created_once, _planned_whole, _superseded_by_younger, _ended, _counted, _few_late_puts,
        _one_live_run, _nothing_lost, _whole_pairs, _done_once, _parts_written_once, _read_once,
        _tables_complete,
    )  # fmt: skip
    return [
        f"{invariant.__name__.strip('_')}: {violation}" for invariant in invariants for violation in invariant(state)
    ]


def _parts_written_once(state: FinalState) -> Iterator[str]:
    """Parts of the journal and of the instance table never change; a lost answer may repeat a put with its bytes."""
    stored: dict[str, bytes] = {}
    for event in state.events:
        is_part = event.what == "put" and re.match(rf"{RUNS}[^/]+/(journal|instances)/", event.key)
        if is_part and stored.setdefault(event.key, event.data) != event.data:
            yield f"{event.key} has other bytes at {event.time_s}"


def _tables_complete(state: FinalState) -> Iterator[str]:
    """Rows of instances follow their objects and precede the journal row that names them, once for each image."""
    at_s: dict[str, float] = {}
    for event in state.events:
        at_s.setdefault(event.key if event.key.startswith("out/_sam3/") else f"{event.key} {event.actor}", event.time_s)
        if "/instances/" not in event.key:
            continue
        for row in decode_part(event.data):
            if at_s.get(f"out/{row.json} {event.actor}", event.time_s + 1) > event.time_s:
                yield f"{event.key} has rows of {row.json} before its objects"
    for run in state.runs:
        for event, row in state.rows(run):
            if row.result != ANNOTATED:
                continue
            key = re.sub(r"/journal/([^/]+)/.*", rf"/instances/\1/{row.instances}.jsonl.gz", event.key)
            part = state.world.objects.get(key, (b"", 0.0))[0]
            found = [one.class_name for one in decode_part(part) if one.json == row.json] if part else []
            if found != list(row.scores) or at_s[key] > event.time_s or f"/{row.instances}." not in event.key:
                yield f"{event.key}: {row.json} has the rows {found} in {key}, expected are {list(row.scores)}"


def _read_once(state: FinalState) -> Iterator[str]:
    """A reader finds the rows of each annotated image once, of the stored mask unless audit names the pair."""
    store: Any = StillStore(state.world)
    newest, parts = NewestRows(store), InstanceParts()
    for key in state.inputs:
        npz = state.output(_suffixes(key)[1])
        recorded = newest.of(key)
        result = None if recorded is None else recorded.valid_row(lambda npz=npz: mask_digest(npz.encode()))
        if recorded is None or result is None:
            continue
        try:
            tags = [row.class_name for row in parts.rows_of(recorded.run, recorded.shard, result)]
        except (InputError, ObjectMissingError) as exc:
            yield f"{key}: {exc}"
            continue
        if tags != [npz.rpartition(" ")[2]] and (len(tags) != 1 or not _is_named_by_audit(state, key)):
            yield f"{key}: a reader finds rows of {tags}, the mask is {npz}"


def _no_unexpected_errors(state: FinalState) -> Iterator[str]:
    for slot in state.outcome.slots:
        for actor in slot.actors:
            if actor.error is not None:
                yield f"{actor.name} raised {actor.error!r}"


def _created_once(state: FinalState) -> Iterator[str]:
    seen = set()
    for event in state.events:
        if _ONCE.search(event.key) and event.key.startswith(RUNS) and event.what in ("put", "create"):
            if event.what == "put" or event.key in seen:
                yield f"{event.key} written by {event.what} at {event.time_s}"
            seen.add(event.key)


def _planned_whole(state: FinalState) -> Iterator[str]:
    """A plan lists its shards by parts that were stored before it, and no file of it changes afterwards."""
    for run in state.runs:
        plan = state.plan(run)
        if plan is None:
            continue
        names = [shard.name for shard in state.shards(run)]
        if names != list(plan.shard_names()) or len(set(names)) < len(names):
            yield f"{run} has the shards {names} in its parts, its plan names {list(plan.shard_names())}"
        for part in plan.parts:
            shards = [shard for shard in state.shards(run) if shard.name in set(part.shard_names())]
            if (len(shards), sum(shard.inputs for shard in shards)) != (part.shards, part.inputs):
                yield f"{run} plans {part}, but its list has {shards}"
        for shard in state.shards(run):
            raw = state.object(run, f"plan-{plan.nonce}/{shard.name}.jsonl")
            inputs = msgspec.json.Decoder(PlannedInput).decode_lines(raw or b"")
            if len(inputs) != shard.inputs:
                yield f"shard {run}/{shard.name} has {len(inputs)} of {shard.inputs} inputs"
        created = state.event("create", f"{RUNS}{run}/plan.json")
        for event in state.events:
            is_of_plan = event.key.startswith(f"{RUNS}{run}/plan-{plan.nonce}/") and event.what == "put"
            if is_of_plan and created is not None and event.time_s > created.time_s and not event.is_ghost:
                yield f"{event.key} written at {event.time_s}, after plan.json at {created.time_s}"


def _superseded_by_younger(state: FinalState) -> Iterator[str]:
    for run in state.runs:
        end = state.end(run)
        if end is None or end.outcome != "superseded":
            continue
        if end.superseded_by not in state.runs or state.runs.index(end.superseded_by) <= state.runs.index(run):
            yield f"{run} superseded by {end.superseded_by}, in order {state.runs}"


def _ended(state: FinalState) -> Iterator[str]:
    ends = {run: state.end(run) for run in state.runs}
    for run, end in ends.items():
        if end is None and not _is_refused(state, run):
            yield f"{run} has no end; exits {[(slot.worker_id, slot.exit_code) for slot in state.outcome.slots]}"
    if not any(end is not None and end.outcome != "superseded" for end in ends.values()):
        yield f"no run has ended by itself: {ends}"


def _is_refused(state: FinalState, run: str) -> bool:
    """Whether all its processes were refused because an older run is running."""
    last = [slot.actors[-1] for slot in state.outcome.slots if state.run_of(slot.actors[-1].number) == run]
    return all("still running" in actor.message for actor in last)


def _counted(state: FinalState) -> Iterator[str]:
    for run in state.runs:
        plan, end = state.plan(run), state.end(run)
        if plan is None or end is None or end.outcome == "superseded":
            continue
        sums: dict[str, int] = {}
        for shard in state.shards(run):
            raw = state.object(run, f"done/{shard.name}.json")
            totals = {} if raw is None else msgspec.json.decode(raw, type=Marker).totals
            if sum(totals.values()) != shard.inputs:
                yield f"marker {run}/{shard.name} counts {totals} of {shard.inputs}"
            for result, count in totals.items():
                sums[result] = sums.get(result, 0) + count
        if (end.annotated, end.failed) != (sums.get("annotated", 0), sums.get(FAILED, 0)):
            yield f"{run} ended with {end}, its markers log {sums}"
        if end.inputs_listed != len(state.inputs):
            yield f"{run} listed {end.inputs_listed} of {len(state.inputs)}"


def _few_late_puts(state: FinalState) -> Iterator[str]:
    late: dict[int, int] = {}
    for event, run in state.puts:
        ended = state.event("create", f"{RUNS}{run}/end.json")
        if ended is not None and event.time_s > ended.time_s + FRESH_S:
            late[event.actor] = late.get(event.actor, 0) + 1
    for actor, count in late.items():
        if count > 1:
            yield f"{state.outcome.actor(actor).name} put {count} objects long after the end of its run"


def _one_live_run(state: FinalState) -> Iterator[str]:
    """After a run has started to list the output, older runs write only what was in flight."""
    listed: dict[str, float] = {}
    for event in state.events:
        run = state.run_of(event.actor)
        if event.what == "list" and event.key == "out/" and run is not None:
            listed[run] = event.time_s
    for event, run in state.puts:
        younger = state.runs[state.runs.index(run) + 1 :]
        plans = {name: state.event("create", f"{RUNS}{name}/plan.json") for name in younger}
        for name, planned in plans.items():
            if planned is not None and listed[name] < event.time_s and not is_late(event):
                yield f"{run} put {event.key} at {event.time_s}, after younger {name} listed at {listed[name]}"
                return


def _suffixes(key: str) -> tuple[str, str, str]:
    stem = key.removesuffix(".json")
    return stem + ".jpg", stem + ".npz", key


def _nothing_lost(state: FinalState) -> Iterator[str]:
    failed = {row.json for run in state.runs for _, row in state.rows(run) if row.result == FAILED}
    for key in state.inputs:
        if not all(state.output(name) for name in _suffixes(key)) and key not in failed:
            yield f"{key} has neither outputs nor a failed row"


def _whole_pairs(state: FinalState) -> Iterator[str]:
    """Mask and JSON have the same options; `audit --deep` finds every other pair, and a late put explains it."""
    last = [run for run in state.runs if (end := state.end(run)) is not None and end.outcome != "superseded"][-1:]
    overridden = _overriding_tags(state, last[0]) if last else None
    for key in state.inputs:
        _, mask, _ = _suffixes(key)
        npz_tag, json_tag = state.output(mask).rpartition(" ")[2], state.output(key).rpartition(" ")[2]
        is_torn = npz_tag != json_tag and bool(npz_tag and json_tag)
        is_old = overridden is not None and json_tag not in overridden and not _has_failed(state, last[0], key)
        if not (is_torn or is_old):
            continue
        if not _is_named_by_audit(state, key):
            yield f"{key}: mask {npz_tag}, JSON {json_tag}, and no audit finds it"
        if not (_has_late_put(state, key) or npz_tag.partition("-")[0] == json_tag.partition("-")[0]):
            yield f"{key}: mask {npz_tag}, JSON {json_tag}, without a late put"


def _overriding_tags(state: FinalState, run: str) -> set[str] | None:
    slots = [slot for slot in state.outcome.slots if any(state.run_of(actor.number) == run for actor in slot.actors)]
    if not slots or not slots[0].worker_id.launch.override:
        return None
    return {tag_of(slot.worker_id.launch.threshold, slot.worker_id.pool.precision) for slot in slots}


def _has_failed(state: FinalState, run: str, key: str) -> bool:
    return any(row.json == key and row.result == FAILED for _, row in state.rows(run))


def _has_late_put(state: FinalState, key: str) -> bool:
    return any(event.key in {f"out/{name}" for name in _suffixes(key)} and is_late(event) for event, _ in state.puts)


def _is_named_by_audit(state: FinalState, key: str) -> bool:
    """Mask digest and scores are not those of one row of the newest run with rows for that key."""
    _, mask, _ = _suffixes(key)
    digest, tag = mask_digest(state.output(mask).encode()), state.output(key).rpartition(" ")[2]
    for run in reversed(state.runs):
        rows = [row for _, row in state.rows(run) if row.json == key]
        if rows:
            return not any(row.mask_sha256 == digest and tag in row.scores for row in rows)
    return False


def _done_once(state: FinalState) -> Iterator[str]:
    """A process does not repeat an input whose row was stored before its start."""
    stored: dict[tuple[str, str], float] = {}
    for run in state.runs:
        for event, row in state.rows(run):
            stored.setdefault((run, row.json), event.time_s)
    for event, run in state.puts:
        if event.key.endswith(".json"):
            at_s = stored.get((run, event.key.removeprefix("out/")))
            actor = state.outcome.actor(event.actor)
            if at_s is not None and at_s < actor.started_s:
                yield f"{actor.name} repeated {event.key}, which has a row since {at_s}"
