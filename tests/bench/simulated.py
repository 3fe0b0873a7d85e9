"""Plan and end of runs with up to a billion inputs, whose shards, markers and rows are simulated.

The real planner cuts the inputs and writes parts and `plan.json`; indexes find their blocks; the real end of a run
lists and reads the markers. Files of shards are counted and dropped, markers are made when they are read.
`python -m tests.bench.simulated INPUTS INDEXES`
"""

from __future__ import annotations

import json
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import msgspec

from job.errors import ObjectMissingError
from job.plan.plan import Plan, iter_shards, shard_name, shards_of_block
from job.plan.sharding import Sizing, write_shards
from job.run.options import WorkerOptions
from job.run.run import RUNS_FOLDER, Run
from job.storage.listing.pages import DirListing, Page
from job.storage.object_store import ObjectStore
from job.storage.store import Fetched, StoredObject
from job.system.resources import peak_resident_bytes
from job.tools.progress import read_progress
from job.worker.completion import end_if_complete
from job.worker.shards import Marker
from tests.fakes import spec_of

LINE = b'{"json":"camera000000/0000000000.json","image":"camera000000/0000000000.jpg","prior":false}'
PAGE = 1000
DONE = f"{RUNS_FOLDER}/r/done/"


class SimulatedDriver:
    """A bucket that keeps only what is not simulated.

    Attributes:
        markers: Number of shards with a marker.
        requests: Requests by kind.
        written: Bytes by kind of file.
    """

    url = "simulated://out"

    def __init__(self) -> None:
        self.markers = 0
        self.requests: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def _count(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1

    def exists(self) -> bool:
        """True."""
        return True

    def page(self, prefix: str, after: str) -> Page:
        """See `PagedDriver.page`; markers are simulated."""
        self._count("LIST")
        if prefix != DONE:
            keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
            return Page(tuple(StoredObject(key, 1, 0.0) for key in keys[:PAGE]), is_last=len(keys) <= PAGE)
        first = bisect_right(range(self.markers), after, key=self._marker)
        last = min(first + PAGE, self.markers)
        found = tuple(StoredObject(self._marker(number), 160, 0.0) for number in range(first, last))
        return Page(found, is_last=last == self.markers)

    def _refuse(self, *arguments: object) -> Any:
        raise AssertionError(f"no plan and no end needs this request: {arguments}")

    page_of_token = fetch_range = copy = delete = _refuse

    @staticmethod
    def _marker(number: int) -> str:
        return f"{DONE}{shard_name(number)}.json"

    def list_dir(self, prefix: str, after: str) -> DirListing:
        """See `Driver.list_dir`."""
        self._count("LIST")
        names = {key[len(prefix) :].partition("/")[0] for key in self._objects if key.startswith(prefix)}
        return DirListing((), tuple(sorted(names)))

    def fetch(self, key: str) -> Fetched:
        """See `Driver.fetch`."""
        self._count("GET")
        if key.startswith(DONE):
            marker = Marker(attempt="x", totals={"annotated": 1}, instances={}, dropped={}, failures=())
            return Fetched(msgspec.json.encode(marker))
        if key not in self._objects:
            raise ObjectMissingError(key)
        return Fetched(self._objects[key])

    def stat(self, key: str) -> StoredObject | None:
        """See `Driver.stat`."""
        self._count("HEAD")
        return StoredObject(key, 1, 0.0) if key in self._objects else None

    def put(self, key: str, data: bytes) -> None:
        """See `Driver.put`; the rows of shards are dropped."""
        self._count("PUT")
        name = key.rpartition("/")[2]
        kind = "parts" if name.startswith("part-") else "shards" if "/plan-" in key else name
        with self._lock:
            self.written[kind] += len(data)
            if kind != "shards":
                self._objects[key] = data

    def put_file(self, key: str, path: Path) -> None:
        """See `Driver.put_file`."""
        self.put(key, path.read_bytes())

    def create(self, key: str, data: bytes) -> bool:
        """See `Driver.create`."""
        self.put(key, data)
        return True

    def now_s(self) -> float:
        """A clock long after everything was written."""
        return 1e6


def main(inputs: int, num_indexes: int) -> dict[str, Any]:
    """Plan, cut into blocks, look at the progress, and end."""
    driver = SimulatedDriver()
    store = ObjectStore(driver, "x")  # type: ignore[arg-type]
    run = Run(store, "r", spec_of(Path("in")))
    store.put(run.key("run.json"), msgspec.json.encode(run.spec))
    begun = time.process_time()
    lines: Iterator[bytes] = islice(repeat(LINE), inputs)
    parts = tuple(write_shards(run, "n", lines, Sizing(num_indexes=num_indexes)))
    plan = Plan(nonce="n", parts=parts, inputs_listed=inputs, inputs_done=0, images_without_json=0)
    store.put(run.key("plan.json"), msgspec.json.encode(plan))
    plan_s, plan_requests = time.process_time() - begun, driver.requests.copy()
    position, shares = 0, [0] * num_indexes
    for shard in iter_shards(run, plan):
        shares[(2 * position + shard.inputs) * num_indexes // (2 * inputs)] += shard.inputs
        position += shard.inputs
    driver.requests.clear()
    last = shards_of_block(run, plan, num_indexes - 1, num_indexes)
    assert sum(shard.inputs for shard in last) == shares[-1]
    parts_of_index = driver.requests["GET"]
    driver.markers = plan.shards_planned - 1
    options = WorkerOptions(device="cpu")
    assert end_if_complete(run, plan, options) is None, "the last marker is missing"
    assert read_progress(store, "r").done == inputs - last[-1].inputs
    driver.markers += 1
    driver.requests.clear()
    begun = time.process_time()
    end = end_if_complete(run, plan, options)
    assert end is not None
    assert (end.outcome, end.annotated) == ("succeeded", plan.shards_planned)
    return {
        "inputs": inputs, "indexes": num_indexes, "shards": plan.shards_planned, "parts": len(plan.parts),
        "idle_indexes": shares.count(0), "smallest_share": min(shares), "largest_share": max(shares),
        "plan_json_bytes": driver.written["plan.json"], "parts_bytes": driver.written["parts"],
        "shards_bytes": driver.written["shards"], "parts_of_an_index": parts_of_index,
        "plan_requests": plan_requests.total(), "end_requests": dict(driver.requests),
        "plan_processor_s": round(plan_s, 1), "end_processor_s": round(time.process_time() - begun, 1),
        "peak_bytes": peak_resident_bytes(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))) + "\n")
