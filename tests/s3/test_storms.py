"""Runs on S3 with kills, faults, races and stops: the bytes of an undisturbed run, and a result for every input."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from job.storage.keys import mask_key
from job.worker.worker import KILLER_REASON
from tests.e2e.poisoned import POISON
from tests.processes import quiet_results
from tests.s3.data import (
    BROKEN,
    check_accounts,
    check_audit,
    check_complete,
    failure_rows,
    findings_of,
    make_inputs,
    outputs,
    store_of,
    upload,
)
from tests.s3.fixtures import Bucket
from tests.s3.proxy import FAULTS, Behaviour, FaultProxy, Seen, fault_proxy
from tests.s3.storm import PHASES, Storm
from tests.s3.workers import pods, run_to_end

COUNT = 240
INTERVAL_S = 0.5
POOLS = {"gpu": 2, "cpu": 2}
FLAGS = ("--journal_interval_s", str(INTERVAL_S), "--shard_size", "15")
OVERRIDE = ("--override_previous_annotations",)


@pytest.fixture(scope="module")
def inputs(scenes: Path) -> dict[str, bytes]:
    return make_inputs(scenes, COUNT)


@pytest.fixture(scope="module")
def quiet(inputs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Outputs of an undisturbed run on local disk with as many threads."""
    return quiet_results(inputs, tmp_path_factory.mktemp("quiet"))


@pytest.fixture
def filled(fast_bucket: Bucket, inputs: dict[str, bytes]) -> Bucket:
    upload(fast_bucket, inputs)
    return fast_bucket


@pytest.fixture
def proxy(filled: Bucket) -> Iterator[FaultProxy]:
    with fault_proxy(filled.server, seed=3) as running:
        yield running


def storm_through(
    tmp_path: Path, bucket: Bucket, proxy: FaultProxy, run: str, count: int, gap_s: float, *flags: str
) -> Storm:
    """Run pods to the end with `count` kills, fewer if the run ends first."""
    seed = int(os.environ.get("STORM_SEED", secrets.randbits(16)))
    made = pods(tmp_path, bucket, proxy.server, run, POOLS, *FLAGS, *flags)
    storm = Storm(made, seed, count, gap_s)
    proxy.behaviour = Behaviour(before=storm.before, after=storm.after)
    begun = time.monotonic()
    try:
        run_to_end(made, timeout_s=900 + 8 * gap_s * count)
    finally:
        sys.stdout.write(f"{storm.report()}\nleft: {storm.left}; {time.monotonic() - begun:.0f} s\n")
    assert {code for pod in made for code in pod.codes} <= {0, 75, -9, -15}
    assert {kill.phase for kill, _ in storm.done} == set(PHASES), "every phase is hit"
    assert time.monotonic() - begun >= 10 * INTERVAL_S
    return storm


def test_a_kill_storm_loses_nothing(tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]) -> None:
    storm = storm_through(tmp_path, filled, proxy, "storm", 20, 1.0)
    assert len(storm.done) >= 20
    assert outputs(filled) == quiet
    check_complete(filled, "storm", COUNT + 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_long_kill_storm(tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]) -> None:
    """Override runs, one after the other, until there were 200 kills.

    An image with an open intent of two killed processes counts as one that kills its worker. In a storm this happens
    by chance, so such an image may be a failed row with that reason.
    """
    kills, rounds, unlucky = 0, 0, 0
    while kills < 200:
        run = f"storm{rounds}"
        (tmp_path / run).mkdir()
        storm = storm_through(tmp_path / run, filled, proxy, run, 25, 1.0, *OVERRIDE, "--image_timeout_s", "20")
        assert outputs(filled) == quiet
        failed = {row["json"]: row["reason"] for row in failure_rows(filled, run)}
        assert all(KILLER_REASON in reason for key, reason in failed.items() if key != BROKEN)
        check_accounts(filled, run, COUNT + 1, failed=tuple(failed))
        check_audit(filled, COUNT + 1, failed=(BROKEN,))
        kills, rounds, unlucky = kills + len(storm.done), rounds + 1, unlucky + len(failed) - 1
    sys.stdout.write(f"{kills} kills in {rounds} runs; {unlucky} images announced at two of them\n")
    assert unlucky <= rounds


def test_an_override_run_that_is_killed_does_each_image_once_but_for_one_interval_a_kill(
    tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]
) -> None:
    upload(filled, {key: data + b" " if key.endswith(".json") else data for key, data in quiet.items()}, "out")
    storm = storm_through(tmp_path, filled, proxy, "storm", 15, 1.0, *OVERRIDE)
    assert outputs(filled) == quiet
    check_complete(filled, "storm", COUNT + 1)
    times = Counter(seen.path for seen in proxy.log if seen.kind == "PUT" and seen.path.endswith(".npz"))
    assert len(times) == COUNT
    again = times.total() - COUNT
    sys.stdout.write(f"{again} images done again after {len(storm.done)} kills\n")
    assert again <= len(storm.done) * 15, "at most the images of one interval and those in flight"


def test_a_fault_storm_changes_nothing(
    tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]
) -> None:
    proxy.behaviour = Behaviour(fault_rate=0.1, hang_s=4, slow_s=0.3)
    made = pods(tmp_path, filled, proxy.server, "faults", POOLS, *FLAGS)
    run_to_end(made, timeout_s=400)
    assert [pod.codes for pod in made] == [[0]] * 4, "no fault ends a worker"
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
    assert max(times.values()) <= 2, "once, or twice where two pools meet"
    assert times.total() <= 1.6 * COUNT, "images in flight in both pools when they met"
    plans = [seen for seen in proxy.log if seen.kind == "CREATE" and seen.path.endswith("plan.json")]
    assert 1 <= len(plans) <= 3
    assert sum(1 for item in store_of(filled, "out").list() if item.key.endswith("/plan.json")) == 1


def test_an_image_that_kills_its_worker_ends_as_a_failed_row(
    tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes]
) -> None:
    picture = next(data for key, data in quiet.items() if key.endswith(".jpg"))
    upload(filled, {"day1/deadly.jpg": picture + POISON, "day1/deadly.json": b"{}"})
    flags = (*FLAGS, "--image_timeout_s", "8")
    made = pods(tmp_path, filled, proxy.server, "poison", {"gpu": 1, "cpu": 1}, *flags, module="tests.e2e.poisoned")
    run_to_end(made, timeout_s=240)
    codes = [pod.codes for pod in made]
    assert all(set(each) <= {0, -9} and each[-1] == 0 for each in codes), "the run completes without help"
    assert 2 <= sum(code == -9 for each in codes for code in each) <= 8
    assert outputs(filled) == quiet
    check_complete(filled, "poison", COUNT + 2, failed=(BROKEN, "day1/deadly.json"))


def test_a_worker_stopped_between_mask_and_annotation_leaves_a_whole_pair_or_one_that_audit_names(
    tmp_path: Path, filled: Bucket, proxy: FaultProxy, quiet: dict[str, bytes], other_precision: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = pods(tmp_path / "first", filled, proxy.server, "stopped", {"gpu": 1}, *FLAGS)[0]
    other = ("--model", str(other_precision))
    second = pods(tmp_path / "second", filled, proxy.server, "stopped", {"gpu": 1}, *FLAGS, *other)[0]
    held: list[Seen] = []

    def hold_the_first_annotation(seen: Seen) -> bool:
        if not held and seen.kind == "PUT" and re.match(PHASES["annotation"], f"PUT {seen.path}"):
            held.append(seen)
            os.kill(first.pid, signal.SIGSTOP)
        return bool(held) and seen is held[0]

    proxy.behaviour = Behaviour(hold=hold_the_first_annotation)
    try:
        first.start()
        wait_for(lambda: bool(held))
        run_to_end([second])
        theirs = outputs(filled)
        assert theirs.keys() == quiet.keys()
        proxy.behaviour = Behaviour()  # the annotation of the stopped worker is written now
        os.kill(first.pid, signal.SIGCONT)
        wait_for(first.is_over)
    finally:
        first.end()
    assert first.codes == [0], "the run is complete"
    key = held[0].path.partition("/out/")[2]
    got = outputs(filled)
    assert got[key] == quiet[key], "the write in flight was completed"
    assert got[mask_key(key)] != quiet[mask_key(key)], "beside the mask of the other worker"
    torn = [
        name
        for name in sorted(got)
        if name.endswith(".json") and pair(got, name) not in (pair(theirs, name), pair(quiet, name))
    ]
    assert key in torn
    assert [(finding.kind, finding.key) for finding in findings_of(filled)] == [("foreign", name) for name in torn]


def pair(files: dict[str, bytes], key: str) -> tuple[bytes, bytes]:
    return files[mask_key(key)], files[key]


@pytest.fixture(scope="module")
def other_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint in int8."""
    folder = tmp_path_factory.mktemp("models") / "int8"
    command = [sys.executable, "-m", "job", "export", "--checkpoint", "demo", "--precision", "int8"]
    subprocess.run([*command, "--out", str(folder), "--image_count", "8"], check=True, capture_output=True)
    return folder


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.05)
