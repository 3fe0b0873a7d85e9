"""Shared inputs, an output for each test, and checks of the results of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from job.errors import UsageError
from job.run.heartbeat import heartbeats
from job.run.journal import read_history_rows
from job.run.run import Run, find_named
from job.run.spec import RunEnd
from job.worker.shards import marked_shards, read_marker
from tests.s3.data import BROKEN, findings_of, outputs, store_of, the_run
from tests.s3.fixtures import Bucket


@dataclass(frozen=True)
class Location(Bucket):
    """Two folders of a bucket: `in` with the shared inputs, `out` with the results of one run."""

    source: str
    target: str

    def url(self, folder: str) -> str:
        return f"s3://{self.name}/{self.source if folder == 'in' else self.target}"

    def end(self, run: str) -> RunEnd | None:
        """End of a run; None if the run has not begun or not ended."""
        try:
            return find_named(store_of(self, "out"), run).end()
        except UsageError:
            return None

    def annotated(self) -> int:
        """Number of annotated images."""
        return sum(1 for item in store_of(self, "out").list(skip="_sam3") if item.key.endswith(".json"))


def check_complete(location: Location, run: str, quiet: dict[str, bytes], failed: tuple[str, ...] = (BROKEN,)) -> None:
    """Check that each input is either annotated or failed by this run, and the outputs."""
    check_outputs(location, quiet)
    annotated = sum(key.endswith(".json") for key in quiet)
    end = location.end(run)
    assert end is not None
    assert (end.outcome, end.inputs_listed) == ("succeeded", annotated + len(failed))
    assert (end.annotated, end.failed) == (annotated, len(failed))
    ended, totals = the_run(location, run), Counter[str]()
    for shard in marked_shards(ended):
        totals.update(read_marker(ended, shard).totals)
    assert sum(totals.values()) == end.inputs_listed


def check_outputs(location: Location, quiet: dict[str, bytes]) -> None:
    """Check that outputs equal those of an undisturbed run, and that audit finds nothing."""
    made = outputs(location)
    assert set(made) == set(quiet)
    assert [key for key in quiet if made[key] != quiet[key]] == []
    assert findings_of(location) == []


def pools_of_workers(run: Run) -> dict[str, str]:
    """Pools by process id, from the names of the heartbeats."""
    names = [item.key.rpartition("/")[2].removesuffix(".json") for item in heartbeats(run)]
    return {name.split("-", 2)[2]: name.split("-", 2)[0] for name in names}


def shards_by_pool(location: Location, run: str) -> Counter[str]:
    """Number of shards by the pool that completed them, or `both`."""
    made, counts = the_run(location, run), Counter[str]()
    pools = pools_of_workers(made)
    for shard in marked_shards(made):
        makers = {pools[row.worker] for row in read_history_rows(made, shard) if row.worker}
        counts[makers.pop() if len(makers) == 1 else "both"] += 1
    return counts
