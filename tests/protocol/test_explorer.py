"""The run protocol under crashes, delays and lost responses; docs/architecture.md describes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import pytest

import job.plan.planner
import job.plan.takeover
import job.run.end_watch
import job.run.journal
import job.worker.shards
from job.plan.plan import PlanPart
from job.plan.sharding import write_shards
from job.run.journal import ShardHistory, ShardJournal
from job.run.run import Run
from tests.protocol.campaign import Scenario
from tests.protocol.explorer import FaultAt, Outcome
from tests.protocol.invariants import FinalState
from tests.protocol.process import Launch, Pool
from tests.protocol.world import Kind, Verdict

SEEDS, MANY_SEEDS = range(40), range(1000, 2500)
CPU = Pool(name="cpu", order="backward", precision="int8")
MEETING = (Pool(), CPU)
FOUR = (Pool(num_indexes=2), Pool(name="cpu", num_indexes=2, order="backward", precision="int8"))


def two_runs(first: bool, second: bool, supersede: bool, at_s: float) -> Scenario:
    """Two commands with other options, each overriding or not."""
    return Scenario(
        launches=(
            Launch(run_name="a", override=first, supersede=supersede),
            Launch(run_name="b", threshold=0.5, override=second, supersede=supersede, at_s=at_s),
        ),
        inputs=4,
        done="0123" if first or second else "1",
    )


SCENARIOS = {
    "one process": Scenario(launches=(Launch(),)),
    "one process overrides": Scenario(launches=(Launch(override=True),), done="012"),
    "two pools meet": Scenario(launches=(Launch(pools=MEETING),), inputs=5),
    "two pools meet and override": Scenario(launches=(Launch(pools=MEETING, override=True),), inputs=5, done="01234"),
    "four processes, one bad input": Scenario(launches=(Launch(pools=FOUR, bad=frozenset({"3.json"})),), inputs=6),
    "one command given twice": Scenario(launches=(Launch(run_name=None), Launch(run_name=None, at_s=2)), inputs=4),
    "a chain of three runs": Scenario(
        launches=(
            Launch(run_name="a", override=True, supersede=True),
            Launch(run_name="b", threshold=0.5, override=True, supersede=True, at_s=15),
            Launch(run_name="c", threshold=0.6, supersede=True, at_s=40),
        ),
        done="012",
    ),
    "a chain of three runs in a row": Scenario(
        launches=(
            Launch(run_name="a", override=True, supersede=True),
            Launch(run_name="b", threshold=0.5, supersede=True, at_s=12),
            Launch(run_name="c", threshold=0.6, supersede=True, at_s=20),
        ),
        done="012",
    ),
} | {
    f"two runs {at_s:g} s apart, override {first:d}{second:d}, supersede {supersede:d}": two_runs(
        first, second, supersede, at_s
    )
    for first, second, supersede, at_s in product((False, True), (False, True), (False, True), (2.0, 30.0, 95.0))
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_invariants_hold_with_random_faults(scenario: Scenario) -> None:
    for seed in SEEDS:
        scenario.explore(seed)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_invariants_hold_with_many_random_faults(scenario: Scenario) -> None:
    for seed in MANY_SEEDS:
        scenario.explore(seed)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.GO], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["one process", "one process overrides"])
def test_invariants_hold_with_a_fault_at_every_operation(name: str, kind: Kind) -> None:
    scenario = SCENARIOS[name]
    for step in range(scenario.check().steps):
        scenario.check({step: Verdict(kind, 15.0)})


def pairs_of_kills(scenario: Scenario, kinds: Iterable[tuple[Kind, Kind]]) -> None:
    """Two faults at every two operations, those of the restarted process included."""
    for one, other in kinds:
        for first in range(scenario.check().steps):
            for second in range(first + 1, scenario.check({first: Verdict(one, 15.0)}).steps):
                scenario.check({first: Verdict(one, 15.0), second: Verdict(other, 15.0)})


TINY = Scenario(launches=(Launch(override=True),), inputs=1, done="0")


def test_invariants_hold_with_two_kills_at_every_pair_of_operations() -> None:
    pairs_of_kills(TINY, [(Kind.CRASH_AFTER, Kind.CRASH_AFTER)])


STEPS_TO_EXIT = 14
"""Operations of a worker between SIGTERM and its exit."""


def test_invariants_hold_with_a_storage_failure_at_every_operation_after_sigterm() -> None:
    for first in range(TINY.check().steps):
        for second in range(first + 1, first + STEPS_TO_EXIT):
            TINY.check({first: Verdict(Kind.TERM), second: Verdict(Kind.FAIL_AFTER)})


@pytest.mark.slow
def test_invariants_hold_with_two_faults_at_every_pair_of_operations() -> None:
    deadly = (Kind.CRASH_AFTER, Kind.CRASH_GHOST, Kind.FAIL_AFTER, Kind.TERM)
    pairs_of_kills(TINY, product(deadly, deadly))


def creator(outcome: Outcome, name: str) -> str:
    """The process that has written a file of the run."""
    created = FinalState(outcome).event("create", f"out/_sam3/runs/{name}")
    assert created is not None
    return outcome.actor(created.actor).name


def test_waiting_process_plans_when_the_planner_is_stopped() -> None:
    scenario = Scenario(launches=(Launch(pools=(Pool(num_indexes=3),)),), inputs=6)
    outcome = scenario.check([FaultAt("r/gpu-0", "^list $", Verdict(Kind.STOP, 2000.0))])
    assert not creator(outcome, "r/plan.json").startswith("r/gpu-0")


def test_one_planner_wins_when_two_race() -> None:
    scenario = SCENARIOS["two pools meet"]
    outcome = scenario.check([FaultAt("r/gpu", "create .*plan.json", Verdict(Kind.STOP, 1.0))])
    assert creator(outcome, "r/plan.json").startswith("r/cpu")


def test_audit_finds_a_torn_pair_when_a_worker_was_stopped() -> None:
    scenario = SCENARIOS["two pools meet and override"]
    outcome = scenario.check([FaultAt("r/gpu", r"put 0\.json", Verdict(Kind.STOP, 400.0))])
    state = FinalState(outcome)
    assert state.output("0.npz").endswith("int8")
    assert state.output("0.json").endswith("fp16"), "the check has found that no row has these two"


def test_zombie_writes_only_what_was_in_flight_when_its_run_was_superseded() -> None:
    scenario = Scenario(
        launches=(
            Launch(run_name="a", override=True, is_restarted=False),
            Launch(run_name="b", threshold=0.5, override=True, at_s=60),
        ),
        done="012",
    )
    outcome = scenario.check([FaultAt("a/", r"put 1\.npz", Verdict(Kind.STOP, 3000.0))])
    late = [event.key for event, run in FinalState(outcome).puts if run == "a" and event.time_s > 1_002_000]
    assert late == ["out/1.npz"]


def test_same_seed_gives_the_same_trace() -> None:
    scenario = SCENARIOS["four processes, one bad input"]
    stories = [scenario.run(scenario.drawn(5), 5).world.trace for _ in range(2)]
    assert stories[0] == stories[1]


def _without_last_part(run: Run, *arguments: Any) -> Iterator[PlanPart]:
    """Deletes the list of the last part before the plan is written."""
    parts = list(write_shards(run, *arguments))
    run.store.delete(run.key(f"plan-{arguments[0]}", parts[-1].file))
    yield from parts


class _TableLastStore:
    """Stores a part of the instance table after the part of the journal that names it."""

    def __init__(self, store: Any) -> None:
        self._store, self._held = store, list[tuple[str, bytes]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes) -> None:
        self._held.append((key, data))
        if "/journal/" in key:
            for held_key, held in reversed(self._held):
                self._store.put(held_key, held)


def _store_the_table_last(patch: pytest.MonkeyPatch) -> None:
    write = ShardJournal.write

    def write_reversed(journal: ShardJournal) -> None:
        run = journal._run
        journal._run = Run(_TableLastStore(run.store), run.name, run.spec)  # type: ignore[arg-type]
        try:
            write(journal)
        finally:
            journal._run = run

    patch.setattr(ShardJournal, "write", write_reversed)


def _store_one_part_again(patch: pytest.MonkeyPatch) -> None:
    key = job.run.journal.part_key
    patch.setattr(job.run.journal, "part_key", lambda run, shard, part: key(run, shard, part.partition("-")[0] + "-1"))


PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "no wait for the last puts": (
        lambda patch: patch.setattr(job.plan.takeover, "QUIET_AFTER_END_S", 0.0),
        "two runs 2 s apart, override 11, supersede 1",
    ),
    "no check for the end": (
        lambda patch: patch.setattr(job.run.end_watch, "CHECK_INTERVAL_S", 1e9),
        "two runs 2 s apart, override 11, supersede 1",
    ),
    "rows of earlier attempts are forgotten": (
        lambda patch: patch.setattr(job.worker.shards, "read_history", lambda run, shard: ShardHistory()),
        "one process overrides",
    ),
    "interrupted overrides are forgotten": (
        lambda patch: patch.setattr(job.plan.takeover, "interrupted_work", lambda runs: frozenset()),
        "a chain of three runs",
    ),
    "a part of the plan is missing": (
        lambda patch: patch.setattr(job.plan.planner, "write_shards", _without_last_part),
        "one process",
    ),
    "both planners win": (
        lambda patch: patch.setattr(job.plan.planner, "read_plan", lambda run: None),
        "two pools meet",
    ),
    "the table follows the journal": (_store_the_table_last, "one process"),
    "one part of the table is stored again": (_store_one_part_again, "two pools meet"),
}


@pytest.mark.parametrize(("plant", "name"), PLANTED.values(), ids=PLANTED)
def test_explorer_finds_a_planted_defect(
    plant: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SCENARIOS[name]
    plant(monkeypatch)
    assert any(scenario.broken(scenario.drawn(seed), seed) for seed in range(400))


# Defects that the explorer found.


def test_two_runs_start_in_one_second() -> None:
    scenario = Scenario(launches=(Launch(run_name="b", threshold=0.5), Launch(run_name="a")), inputs=2)
    scenario.check([FaultAt("b/", "^list $", Verdict(Kind.STOP, 0.35))])


def test_next_run_redoes_an_input_interrupted_between_mask_and_json() -> None:
    launches = (Launch(run_name="a", is_restarted=False), Launch(run_name="b", threshold=0.5, at_s=100))
    scenario = Scenario(launches=launches, inputs=2, done="01", without_mask="0")
    scenario.check([FaultAt("a/", r"put 0\.json", Verdict(Kind.CRASH_BEFORE))])


def test_run_waits_for_the_last_puts_of_a_run_that_has_just_ended() -> None:
    launches = (
        Launch(run_name="a", override=True, pools=MEETING, shard_size=4),
        Launch(run_name="b", threshold=0.5, override=True, at_s=36),
    )
    scenario = Scenario(launches=launches, inputs=4, done="0123")
    scenario.check([FaultAt("a/cpu", "^list .*journal/0000000000", Verdict(Kind.STOP, 15.0))])


def test_run_waits_for_a_worker_that_restarts_before_its_run_is_superseded() -> None:
    left = FaultAt("a/gpu-0#1", r"put 1\.jpg", Verdict(Kind.TERM))
    scenario = two_runs(True, True, False, 18.5)
    scenario.check([left, FaultAt("b/", "create .*/a/end.json", Verdict(Kind.STOP, 12.9))])


def test_orderly_exit_does_not_hide_a_replaced_process() -> None:
    launches = (
        Launch(run_name="a", override=True, shard_size=6),
        Launch(run_name="b", threshold=0.5, override=True, at_s=60),
    )
    scenario = Scenario(launches=launches, inputs=6, done="012345")
    stopped = FaultAt("a/gpu-0#1", r"put 0\.npz", Verdict(Kind.REPLACED, 40.0))
    scenario.check([stopped, FaultAt("a/gpu-0#1", r"put 1\.jpg", Verdict(Kind.TERM), after=stopped)])


def test_refused_run_writes_nothing() -> None:
    outcome = two_runs(True, False, False, 3.0).check(
        [FaultAt("a/", r"put 1\.jpg", Verdict(Kind.SUSPEND, 40.0))],
    )
    assert [slot.exit_code for slot in outcome.slots] == [0, 78]
    assert FinalState(outcome).runs == ["a"]


def test_worker_that_starts_while_its_run_is_watched_counts_as_running() -> None:
    launches = (
        Launch(run_name="a", override=True, pools=MEETING),
        Launch(run_name="b", threshold=0.5, at_s=10),
    )
    scenario = Scenario(launches=launches, inputs=12, done="012")
    killed = FaultAt("a/gpu-0#1", r"put 1\.jpg", Verdict(Kind.STOP, 9000.0))
    outcome = scenario.check([killed, FaultAt("a/cpu", "put .*/workers/cpu", Verdict(Kind.STOP, 60.0))])
    assert not any(re.search("exit 78 .*superseded", line) for line in outcome.world.trace)


def test_worker_exits_75_when_the_last_journal_part_fails_after_sigterm() -> None:
    term = FaultAt("r/", r"put 0\.json", Verdict(Kind.TERM))
    outcome = TINY.check([term, FaultAt("r/", "put .*/journal/", Verdict(Kind.FAIL_AFTER), after=term)])
    assert outcome.slots[0].actors[0].exit_code == 75, "the shard has no marker yet"
