"""Stored files that an incompatible version wrote: each reader names the file and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from job.errors import RunConflictError
from job.plan.plan import Plan, PlannedShard, PlanPart, read_part, read_plan, read_shard
from job.run.heartbeat import read_beat
from job.run.journal import read_history
from job.run.run import Run, read_end, read_spec
from job.storage.local.store import LocalStore
from job.worker.shards import read_marker
from tests.fakes import spec_of

SHARD = PlannedShard(name="0000000000", inputs=1)
PART = PlanPart(name="0000000000", shards=1, inputs=1)
PLAN = Plan(nonce="n", parts=(PART,), inputs_listed=1, inputs_done=0, images_without_json=0)
READERS: dict[str, Callable[[Run], object]] = {
    "run.json": lambda run: read_spec(run.store, run.name),
    "end.json": lambda run: read_end(run.store, run.name),
    "plan.json": read_plan,
    "plan-n/0000000000.jsonl": lambda run: read_shard(run, PLAN, SHARD),
    "plan-n/part-0000000000.jsonl": lambda run: read_part(run, PLAN, PART),
    "done/000000.json": lambda run: read_marker(run, "000000"),
    "journal/000000/a-0.jsonl": lambda run: read_history(run, "000000"),
    "workers/gpu-00000-a.json": lambda run: read_beat(run, run.key("workers", "gpu-00000-a.json")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_an_incompatible_version_is_a_conflict(name: str, tmp_path: Path) -> None:
    run = Run(LocalStore(tmp_path / "out", "tester"), "night", spec_of(tmp_path / "in"))
    run.store.put(run.key(*name.split("/")), b'{"unknown": 1}\n')
    with pytest.raises(RunConflictError, match="was written by an incompatible version: ") as error:
        READERS[name](run)
    assert str(error.value).startswith(f"{run.store.url}/{run.key(*name.split('/'))} was written")
