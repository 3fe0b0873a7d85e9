"""Runs on S3 under kills, faults, races and stops: always the bytes of a quiet run, everything accounted for."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import DATE
from tests.e2e.poisoned import POISON
from tests.processes import annotate, results
from tests.s3.data import BROKEN, check_complete, make_inputs, outputs, store_of, upload
from tests.s3.fixtures import Bucket
from tests.s3.proxy import FAULTS, Behaviour, FaultProxy, fault_proxy
from tests.s3.storm import PHASES, Storm
from tests.s3.workers import pods, run_to_end

COUNT = 240
INTERVAL_S = 0.5
POOLS = {"gpu": 2, "cpu": 2}
FLAGS = ("--journal_interval_s", str(INTERVAL_S), "--shard_size", "15")


@pytest.fixture(scope="module")
def inputs(scenes: Path) -> dict[str, bytes]:
    return make_inputs(scenes, COUNT)


@pytest.fixture(scope="module")
def quiet(inputs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Outputs of an undisturbed run on local disk with as many threads."""
    folder = tmp_path_factory.mktemp("quiet")
    for key, data in inputs.items():
        path = folder / "in" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    annotate(folder / "in", folder / "out", "--annotation_date", DATE, "--threads", "1").check_returncode()
    return results(folder / "out")


@pytest.fixture
def filled(fast_bucket: Bucket, inputs: dict[str, bytes]) -> Bucket:
    upload(fast_bucket, inputs)
    return fast_bucket


@pytest.fixture
def proxy(filled: Bucket) -> Iterator[FaultProxy]:
    with fault_proxy(filled.server, seed=3) as running:
        yield running


def storm_through(tmp_path: Path, bucket: Bucket, proxy: FaultProxy, count: int, gap_s: float, *flags: str) -> Storm:
    """Run pods to the end under so many kills."""
    seed = int(os.environ.get("STORM_SEED", secrets.randbits(16)))
    made = pods(tmp_path, bucket, proxy.server, "storm", POOLS, *FLAGS, *flags)
    storm = Storm(made, seed, count, gap_s)
    proxy.behaviour = Behaviour(before=storm.before, after=storm.after)
    begun = time.monotonic()
    try:
        run_to_end(made, timeout_s=120 + 4 * gap_s * count)
    finally:
        sys.stdout.write(f"{storm.told()}\nleft: {storm.left}; {time.monotonic() - begun:.0f} s\n")
    assert {code for pod in made for code in pod.codes} <= {0, 75, -9, -15}
    assert {kill.phase for kill, _ in storm.done} == set(PHASES), "every phase is hit"
    assert time.monotonic() - begun >= 10 * INTERVAL_S
    return storm


def test_a_kill_storm_loses_nothing(tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]) -> None:
    storm = storm_through(tmp_path, filled, proxy, 20, 1.0)
    assert len(storm.done) >= 20
    assert outputs(filled) == quiet
    check_complete(filled, "storm", COUNT + 1)


@pytest.mark.slow
def test_a_long_kill_storm(tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]) -> None:
    storm = storm_through(tmp_path, filled, proxy, 200, 0.8, "--override_previous_annotations")
    assert len(storm.done) >= 190
    assert outputs(filled) == quiet
    check_complete(filled, "storm", COUNT + 1)


def test_an_override_run_that_is_killed_does_each_image_once_but_for_one_interval_a_kill(
    tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]
) -> None:
    upload(filled, {key: data + b" " if key.endswith(".json") else data for key, data in quiet.items()}, "out")
    storm = storm_through(tmp_path, filled, proxy, 15, 1.0, "--override_previous_annotations")
    assert outputs(filled) == quiet
    check_complete(filled, "storm", COUNT + 1)
    times = Counter(seen.path for seen in proxy.log if seen.kind == "PUT" and seen.path.endswith(".npz"))
    assert len(times) == COUNT
    again = times.total() - COUNT
    sys.stdout.write(f"{again} images done again after {len(storm.done)} kills\n")
    assert again <= len(storm.done) * 15, "no more than what a worker does in an interval and has on its way"


def test_a_fault_storm_changes_nothing(
    tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]
) -> None:
    proxy.behaviour = Behaviour(fault_rate=0.1, hang_s=4, slow_s=0.3)
    made = pods(tmp_path, filled, proxy.server, "faults", POOLS, *FLAGS)
    run_to_end(made, timeout_s=400)
    assert [pod.codes for pod in made] == [[0]] * 4, "no worker ends because of a fault"
    assert outputs(filled) == quiet
    check_complete(filled, "faults", COUNT + 1)
    by_fault, by_kind = Counter[str](), Counter[str]()
    for (fault, kind), count in proxy.injected.items():
        by_fault[fault] += count
        by_kind[kind] += count
    sys.stdout.write(f"of {proxy.requests.total()} requests: {dict(by_fault)}; {dict(by_kind)}\n")
    assert set(by_fault) == set(FAULTS)
    assert {"LIST", "CREATE", "GET", "PUT", "COPY", "HEAD"} <= set(by_kind)
    assert by_fault.total() > 0.07 * proxy.requests.total()


def test_two_planners_and_eight_workers_started_at_once(
    tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]
) -> None:
    made = pods(tmp_path, filled, proxy.server, "race", {"gpu": 4, "cpu": 4}, *FLAGS)
    storm = Storm(made, seed=1, count=0, gap_s=0)
    storm._left = [kill for kill in storm._left if kill.phase == "shard of the plan"]
    proxy.behaviour = Behaviour(before=storm.before, after=storm.after)
    run_to_end(made, timeout_s=240)
    assert len(storm.done) == 1, "one was killed while it planned"
    assert outputs(filled) == quiet
    check_complete(filled, "race", COUNT + 1)
    makers = {(seen.path, seen.agent) for seen in proxy.log if seen.kind == "PUT" and seen.path.endswith(".npz")}
    times = Counter(path for path, _ in makers)
    sys.stdout.write(f"{times.total() - COUNT} of {COUNT} images done twice\n")
    assert max(times.values()) <= 2, "once, or twice where pools meet"
    assert times.total() <= 1.6 * COUNT, "what was under way at both when they met"
    plans = [seen for seen in proxy.log if seen.kind == "CREATE" and seen.path.endswith("plan.json")]
    assert 1 <= len(plans) <= 3
    assert sum(1 for item in store_of(filled, "out").walk() if item.key.endswith("/plan.json")) == 1


def test_an_image_that_kills_its_worker_ends_as_a_failed_row(
    tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]
) -> None:
    picture = next(data for key, data in quiet.items() if key.endswith(".jpg"))
    upload(filled, {"day1/deadly.jpg": picture + POISON, "day1/deadly.json": b"{}"})
    flags = (*FLAGS, "--image_timeout_s", "3")
    made = pods(tmp_path, filled, proxy.server, "poison", {"gpu": 1, "cpu": 1}, *flags, module="tests.e2e.poisoned")
    run_to_end(made, timeout_s=240)
    codes = [pod.codes for pod in made]
    assert all(set(each) <= {0, -9} and each[-1] == 0 for each in codes), "the run ends by itself"
    assert 2 <= sum(code == -9 for each in codes for code in each) <= 8
    assert outputs(filled) == quiet
    check_complete(filled, "poison", COUNT + 2, failed=(BROKEN, "day1/deadly.json"))
