"""Parts of the journal and of the instance table: their order, their names, and a store that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.errors import StorageError
from job.formats.instance_table import InstanceRow, decode_part, encode_rows
from job.run.instance_parts import part_key
from job.run.journal import ANNOTATED, FAILED, ResultRow, ShardJournal, read_history_rows
from job.run.run import Run, open_run
from job.storage.local.store import LocalStore
from job.storage.store import Guard
from tests.fakes import spec_of


class RecordingStore(LocalStore):
    """A folder that records puts and flushes and fails on chosen ones, before or after they take effect."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "recorder")
        self.calls: list[str] = []
        self.fails_on = ""
        self.takes_effect = False

    def put(self, key: str, data: bytes, guard: Guard | None = None) -> None:
        self.calls.append(key.partition("/runs/one/")[2])
        is_failing = bool(self.fails_on) and self.fails_on in key
        if not is_failing or self.takes_effect:
            super().put(key, data, guard)
        if is_failing:
            self.fails_on = ""
            raise StorageError(f"{key}: unreachable")

    def flush(self) -> None:
        self.calls.append("flush")
        super().flush()


@pytest.fixture
def store(tmp_path: Path) -> RecordingStore:
    return RecordingStore(tmp_path)


@pytest.fixture
def run(store: RecordingStore) -> Run:
    run = open_run(store, spec_of(Path("in")), name="one", is_date_given=True, process_id="me")
    store.calls.clear()
    return run


def lines(key: str) -> bytes:
    return encode_rows([InstanceRow(json=key, image="x.jpg", width=1, height=1)])


def seen(run: Run) -> dict[str, list[str]]:
    """By key, the keys of the rows in the part that its journal row names."""
    return {
        row.json: [one.json for one in decode_part(run.store.read(part_key(run, "7", row.instances)))]
        for row in read_history_rows(run, "7")
        if row.result == ANNOTATED
    }


def test_the_table_is_stored_and_synced_before_the_journal_that_names_it(run: Run, store: RecordingStore) -> None:
    journal = ShardJournal(run, "7", "me")
    journal.start()
    journal.add(ResultRow(json="a.json", result=ANNOTATED), lines("a.json"))
    journal.add(ResultRow(json="b.json", result=FAILED, reason="broken"))
    journal.add(ResultRow(json="c.json", result=ANNOTATED), lines("c.json"))
    journal.leave()
    assert store.calls == [
        "flush", "journal/7/me-0.jsonl", "instances/7/me-1.jsonl.gz", "flush", "journal/7/me-1.jsonl",
    ]  # fmt: skip
    assert [(row.json, row.instances) for row in read_history_rows(run, "7")] == [
        ("a.json", "me-1"), ("b.json", ""), ("c.json", "me-1"),
    ]  # fmt: skip
    assert seen(run) == {"a.json": ["a.json", "c.json"], "c.json": ["a.json", "c.json"]}


def test_results_without_rows_make_no_part_of_the_table(run: Run, store: RecordingStore) -> None:
    journal = ShardJournal(run, "7", "me")
    journal.add(ResultRow(json="a.json", result=ANNOTATED))
    journal.write()
    assert store.calls == ["flush", "journal/7/me-0.jsonl"]
    assert [row.instances for row in read_history_rows(run, "7")] == [""]


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize("fails_on", ["/instances/", "/journal/"])
def test_rows_are_stored_under_a_new_name_after_a_failed_put(
    run: Run, store: RecordingStore, fails_on: str, takes_effect: bool
) -> None:
    journal = ShardJournal(run, "7", "me")
    journal.add(ResultRow(json="a.json", result=ANNOTATED), lines("a.json"))
    store.fails_on, store.takes_effect = fails_on, takes_effect
    with pytest.raises(StorageError):
        journal.write()
    assert journal.instance_bytes == len(lines("a.json"))
    journal.leave()
    puts = [call for call in store.calls if call != "flush"]
    assert len(set(puts)) == len(puts)
    assert puts[-2:] == ["instances/7/me-1.jsonl.gz", "journal/7/me-1.jsonl"]
    assert seen(run) == {"a.json": ["a.json"]}


def test_buffered_bytes_are_counted_until_they_are_stored(run: Run) -> None:
    journal = ShardJournal(run, "7", "me")
    for key in ("a.json", "b.json"):
        journal.add(ResultRow(json=key, result=ANNOTATED), lines(key))
    assert journal.instance_bytes == len(lines("a.json")) + len(lines("b.json"))
    journal.write()
    assert journal.instance_bytes == 0
