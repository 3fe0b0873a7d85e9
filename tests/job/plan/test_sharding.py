"""Sizes of shards, parts of a plan and blocks of indexes; plans of the earlier format."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice, pairwise, repeat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.errors import UsageError
from job.plan.plan import (
    Plan,
    PlannedShard,
    first_keys,
    iter_shards,
    read_part,
    read_plan,
    shard_name,
    shards_of_block,
)
from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing, write_shards
from job.plan.takeover import interrupted_work
from job.run.journal import ResultRow, ShardJournal
from job.run.options import WorkerOptions
from job.run.run import Run, open_run
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from job.storage.open import open_store
from job.storage.store import Store
from job.telemetry.progress_bar import Tally
from job.tools.progress import read_progress
from job.worker.runner import annotate, list_planned
from job.worker.shards import are_all_marked, assigned_shards, completed_shards_in
from tests.fakes import FakeSession, request_of, spec_of, write_inputs

LINE = b'{"json":"x.json","image":"x.jpg","prior":false}'


def memory_run(tmp_path: Path, store: Store | None = None) -> Run:
    target = store or open_store(f"memory://{tmp_path}/out", "tester")
    return open_run(target, spec_of(tmp_path / "in"), name="r", is_date_given=False, process_id="tester")


def planned(run: Run, count: int, sizing: Sizing, lines: Iterator[bytes] | None = None) -> Plan:
    parts = tuple(write_shards(run, "n", lines or islice(repeat(LINE), count), sizing))
    plan = Plan(nonce="n", parts=parts, inputs_listed=count, inputs_done=0, images_without_json=0)
    run.store.put(run.key("plan.json"), msgspec.json.encode(plan))
    return plan


def sizes_of(run: Run, plan: Plan) -> list[int]:
    return [shard.inputs for shard in iter_shards(run, plan)]


@pytest.mark.parametrize(
    ("count", "sizing", "sizes"),
    [
        pytest.param(0, Sizing(), [], id="nothing"),
        pytest.param(1, Sizing(num_indexes=9), [1], id="one input"),
        pytest.param(33, Sizing(num_indexes=2), [2] * 16 + [1], id="eight an index"),
        pytest.param(33, Sizing(shard_size=20), [20, 13], id="given size"),
        pytest.param(100, Sizing(largest=10), [10] * 10, id="largest size"),
        pytest.param(12, Sizing(held=8), [1] * 12, id="beyond what is held"),
        pytest.param(40, Sizing(held=16), [2] * 12 + [3] * 3 + [4, 3], id="sizes grow"),
        pytest.param(64, Sizing(held=16, largest=3), [2] * 12 + [3] * 13 + [1], id="sizes grow to the largest"),
    ],
)
def test_sizes_of_shards(tmp_path: Path, count: int, sizing: Sizing, sizes: list[int]) -> None:
    run = memory_run(tmp_path)
    assert sizes_of(run, planned(run, count, sizing)) == sizes


@given(
    count=st.integers(0, 400),
    num_indexes=st.integers(1, 12),
    planned_for=st.integers(1, 12),
    held=st.integers(1, 100),
    largest=st.integers(1, 30),
    part_shards=st.integers(1, 9),
)
def test_blocks_have_every_shard_once_and_equal_shares_of_inputs(
    count: int, num_indexes: int, planned_for: int, held: int, largest: int, part_shards: int
) -> None:
    run = memory_run(Path("/blocks"))
    sizing = Sizing(num_indexes=planned_for, held=held, largest=largest, part_shards=part_shards)
    plan = planned(run, count, sizing)
    shards = list(iter_shards(run, plan))
    blocks = [shards_of_block(run, plan, index, num_indexes) for index in range(num_indexes)]
    assert [shard for block in blocks for shard in block] == shards
    assert plan.inputs_planned == sum(shard.inputs for shard in shards) == count
    assert [shard.name for shard in shards] == list(plan.shard_names()) == sorted(plan.shard_names())
    assert plan.shards_planned == len(shards)
    largest_shard = max((shard.inputs for shard in shards), default=0)
    for block in blocks:
        assert abs(sum(shard.inputs for shard in block) - count / num_indexes) < largest_shard + 1
    if count >= 8 * planned_for and num_indexes == planned_for:
        assert all(len(block) >= 7 for block in blocks)
        assert largest_shard <= count / (8 * num_indexes)


def test_a_million_and_a_half_inputs_leave_no_index_of_5000_idle(tmp_path: Path) -> None:
    run, count, num_indexes = memory_run(tmp_path), 1_500_000, 5000
    plan = planned(run, count, Sizing(num_indexes=num_indexes))
    position, shares = 0, [0] * num_indexes
    for shard in iter_shards(run, plan):
        shares[(2 * position + shard.inputs) * num_indexes // (2 * count)] += shard.inputs
        position += shard.inputs
    sys.stdout.write(f"{plan.shards_planned} shards, an index has {min(shares)} to {max(shares)} inputs\n")
    assert min(shares) > 0.8 * count / num_indexes
    assert max(shares) < 1.2 * count / num_indexes
    assert sum(shard.inputs for shard in shards_of_block(run, plan, 4999, num_indexes)) == shares[4999]


def test_names_are_in_the_order_of_the_plan_and_end_at_10_billion() -> None:
    numbers = [0, 9, 10, 999_999, 1_000_000, 9_999_999_999]
    assert all(one < other for one, other in pairwise(map(shard_name, numbers)))
    with pytest.raises(UsageError, match=r"more than 10,000,000,000 shards: give a larger --shard_size"):
        shard_name(10_000_000_000)


def test_an_index_reads_only_the_parts_of_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = memory_run(tmp_path, LocalStore(tmp_path / "out", "tester"))
    plan = planned(run, 100, Sizing(shard_size=1, part_shards=10))
    read: list[str] = []
    original = LocalStore.read

    def counted(self: LocalStore, key: str) -> bytes:
        read.append(key.rpartition("/")[2])
        return original(self, key)

    monkeypatch.setattr(LocalStore, "read", counted)
    assert len(shards_of_block(run, plan, 3, 20)) == 5
    assert read == ["part-0000000010.jsonl"]


def test_a_forced_input_is_counted_whatever_its_name(tmp_path: Path) -> None:
    run = memory_run(tmp_path)
    lines = [b'{"json":"\\"forced\\":true.json"}', b'{"json":"b.json","forced":true}']
    plan = planned(run, 2, Sizing(shard_size=2), iter(lines))
    assert plan.parts[0].forced == 1


@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("num_indexes", [1, 2, 5])
def test_the_worker_processes_every_border_of_sizes_and_parts(
    tmp_path: Path, fake_session: FakeSession, monkeypatch: pytest.MonkeyPatch, order: str, num_indexes: int
) -> None:
    """Shards grow after 8 held inputs, and a part ends after 3 shards; the indexes end the run one after the other."""
    source, target = tmp_path / "in", tmp_path / "out"
    write_inputs(source, 30)
    run = open_run(LocalStore(target, "x"), spec_of(source), name="r", is_date_given=False, process_id="x")
    make_plan(run, Selection(run, LocalStore(source, "x")), Sizing(held=8, largest=3, part_shards=3))
    ends = []
    for index in range(num_indexes):
        options = WorkerOptions(device="cpu", index=index, num_indexes=num_indexes, order=order)  # type: ignore[arg-type]
        ends.append(annotate(request_of(source, target, run_name="r", options=options), Tally()))
        assert read_progress(run.store, "r").done == fake_session.images
    assert ends[:-1] == [None] * (num_indexes - 1)
    last = ends[-1]
    assert last is not None
    assert (last.outcome, last.annotated, fake_session.images) == ("succeeded", 30, 30)


def numbered_from(run: Run, plan: Plan, first: int) -> None:
    """Give the shards of a stored plan of one part other numbers, as if others preceded them."""
    (part,) = plan.parts
    folder = f"plan-{plan.nonce}"
    moved = []
    for number, shard in enumerate(read_part(run, plan, part)):
        moved.append(msgspec.structs.replace(shard, name=shard_name(first + number)))
        run.store.put(
            run.key(folder, f"{moved[-1].name}.jsonl"), run.store.read(run.key(folder, f"{shard.name}.jsonl"))
        )
    part = msgspec.structs.replace(part, name=shard_name(first))
    run.store.put(run.key(folder, part.file), msgspec.json.Encoder().encode_lines(moved))
    run.store.put(run.key("plan.json"), msgspec.json.encode(msgspec.structs.replace(plan, parts=(part,))))


@pytest.mark.parametrize("first", [99_998, 999_997, 9_999_998, 9_999_999_996])
def test_the_worker_crosses_the_border_of_a_number_of_digits(
    tmp_path: Path, fake_session: FakeSession, first: int
) -> None:
    """The full plan of a million shards before the border is in tests/bench/test_border.py."""
    source, target = tmp_path / "in", tmp_path / "out"
    write_inputs(source, 4)
    run = open_run(LocalStore(target, "x"), spec_of(source), name="r", is_date_given=False, process_id="x")
    numbered_from(run, make_plan(run, Selection(run, LocalStore(source, "x")), Sizing(shard_size=1)), first)
    ends = []
    for index in range(2):
        options = WorkerOptions(device="cpu", index=index, num_indexes=2)
        ends.append(annotate(request_of(source, target, run_name="r", options=options), Tally()))
        assert read_progress(run.store, "r").done == 2 * index + 2
    assert ends[0] is None
    assert isinstance(ends[1], RunEnd)
    assert (ends[1].outcome, ends[1].annotated) == ("succeeded", 4)


def in_earlier_format(run: Run, plan: Plan, names: list[str]) -> Plan:
    """Write the plan as the version before parts did: all shards in plan.json, names of six digits."""
    shards = tuple(
        PlannedShard(name=name, inputs=shard.inputs, forced=shard.forced)
        for name, shard in zip(names, iter_shards(run, plan), strict=True)
    )
    for shard, old in zip(iter_shards(run, plan), shards, strict=True):
        lines = run.store.read(run.key(f"plan-{plan.nonce}", f"{shard.name}.jsonl"))
        run.store.put(run.key(f"plan-{plan.nonce}", f"{old.name}.jsonl"), lines)
        run.store.delete(run.key(f"plan-{plan.nonce}", f"{shard.name}.jsonl"))
    for part in plan.parts:
        run.store.delete(run.key(f"plan-{plan.nonce}", part.file))
    fields = {
        "nonce": plan.nonce, "shards": shards, "inputs_listed": plan.inputs_listed, "inputs_done": 0,
        "images_without_json": 0, "other_options": (),
    }  # fmt: skip
    run.store.put(run.key("plan.json"), msgspec.json.encode(fields))
    found = read_plan(run)
    assert found is not None
    return found


@pytest.fixture
def earlier(tmp_path: Path) -> Run:
    """A run of four shards whose plan was written by the earlier version; the last name has seven digits."""
    source = tmp_path / "in"
    write_inputs(source, 4)
    run = open_run(LocalStore(tmp_path / "out", "x"), spec_of(source), name="r", is_date_given=False, process_id="x")
    plan = make_plan(run, Selection(run, LocalStore(source, "x")), Sizing())
    in_earlier_format(run, plan, ["999997", "999998", "999999", "1000000"])
    return run


def test_a_run_with_a_plan_of_the_earlier_version_is_resumed_and_ends(
    earlier: Run, tmp_path: Path, fake_session: FakeSession
) -> None:
    assert first_keys(earlier, 2) == {"00000.json", "00001.json"}
    ends = []
    for index in range(2):
        options = WorkerOptions(device="cpu", index=index, num_indexes=2)
        ends.append(annotate(request_of(tmp_path / "in", tmp_path / "out", run_name="r", options=options), Tally()))
        if index == 0:
            assert read_progress(earlier.store, "r").done == 2
            assert list(list_planned(request_of(tmp_path / "in", tmp_path / "out", run_name="r"))) == [
                "00002.json", "00003.json",
            ]  # fmt: skip
    assert ends[0] is None
    assert isinstance(ends[1], RunEnd)
    assert (ends[1].annotated, fake_session.images) == (4, 4)


def test_blocks_of_a_plan_of_the_earlier_version_are_those_of_that_version(earlier: Run) -> None:
    plan = read_plan(earlier)
    assert plan is not None
    blocks = [[shard.name for shard in shards_of_block(earlier, plan, index, 3)] for index in range(3)]
    assert blocks == [["999997"], ["999998"], ["999999", "1000000"]]
    assert (plan.shards_planned, plan.inputs_planned, len(read_part(earlier, plan, plan.all_parts[0]))) == (4, 4, 4)
    own = assigned_shards(earlier, plan, WorkerOptions(device="cpu"))
    earlier.store.put(earlier.key("done", "1000000.json"), b"{}")
    earlier.store.put(earlier.key("done", "999998.json"), b"{}")
    assert completed_shards_in(earlier, own) == {"1000000", "999998"}
    assert not are_all_marked(earlier, plan)


def test_a_takeover_reads_the_plan_of_the_earlier_version(earlier: Run) -> None:
    """Its first shard was started and has no row, the second one has a row, the third was not started."""
    plan = read_plan(earlier)
    assert plan is not None
    for name, rows in (("999997", []), ("999998", [ResultRow(json="00001.json", result="annotated")])):
        journal = ShardJournal(earlier, name, "killed")
        journal.start()
        for row in rows:
            journal.add(row)
        journal.write()
    key = earlier.key(f"plan-{plan.nonce}", "999997.jsonl")
    earlier.store.put(key, earlier.store.read(key).replace(b'"prior":false', b'"prior":true'))
    assert interrupted_work([earlier]) == {"00000.json"}
