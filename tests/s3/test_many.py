"""A plan over 100,000 real objects."""

from __future__ import annotations

import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest

from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.run.run import open_run
from job.storage.store import PRIVATE_FOLDER
from tests.fakes import spec_of
from tests.s3.data import store_of
from tests.s3.fixtures import Bucket
from tests.s3.proxy import fault_proxy
from tests.s3.servers import find_minio

COUNT = 100_000
DONE = 99_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(find_minio() is None, reason="no MinIO: set MINIO_BINARY")
def test_a_plan_over_100_000_images_needs_listings_only(fast_bucket: Bucket) -> None:
    source, target = store_of(fast_bucket, "in"), store_of(fast_bucket, "out")
    stems = [f"camera{number % 37:02d}/{number:08d}" for number in range(COUNT)]
    inputs = ((source, stem + suffix) for stem in stems for suffix in (".jpg", ".json"))
    outputs = ((target, stem + suffix) for stem in stems[:DONE] for suffix in (".jpg", ".json", ".npz"))
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda item: item[0].put(item[1], b"x"), chain(inputs, outputs)):
            pass
    begun = time.monotonic()
    listed = sum(1 for store in (source, target) for _ in store.list(skip=PRIVATE_FOLDER))
    bare_s = time.monotonic() - begun
    assert listed == 2 * COUNT + 3 * DONE
    with fault_proxy(fast_bucket.server) as proxy:
        seen = Bucket(proxy.server, fast_bucket.name)
        spec = spec_of(__file__, input_url=fast_bucket.url("in"))  # type: ignore[arg-type]
        run = open_run(store_of(seen, "out"), spec, name="r", is_date_given=False, process_id="x")
        begun = time.monotonic()
        plan = make_plan(run, Selection(run, store_of(seen, "in")), Sizing())
        plan_s = time.monotonic() - begun
        kinds = Counter(proxy.requests)
    sys.stdout.write(f"bare listing {bare_s:.1f} s, plan {plan_s:.1f} s, requests {dict(kinds)}\n")
    assert (plan.inputs_listed, plan.inputs_done, plan.inputs_planned) == (COUNT, DONE, COUNT - DONE)
    assert kinds["LIST"] <= 1.6 * listed / 1000 + 10, "ranges that are listed at the same time end in part of a page"
    assert kinds["GET"] <= 5, "no image and no JSON is read"
