"""Status of a release: state, pools, failures with reasons."""

from __future__ import annotations

from typing import Any

import pytest

from job.errors import ConfigurationError, TooManyFailedError, WorkerError
from job.tools.progress import RunProgress, State
from k8s.api_objects import Job, count_of, indexes_of
from k8s.cli.status import _raise_on_failure
from k8s.status import SHOWN_FAILURES, last_words, release_status
from tests.k8s.objects import condition, ended, job, pod, release

COMPLETE, FAILED = (condition("Complete"),), (condition("Failed", "True", "PodFailurePolicy", "exit code 78"),)


def progress(state: State, **fields: Any) -> RunProgress:
    return RunProgress(run="night-1a2b3c4d", state=state, **fields)


STATES: dict[str, tuple[dict[str, Job], RunProgress | None]] = {
    "complete": ({"cpu": job("cpu", conditions=COMPLETE), "gpu": job("gpu", suspend=True)}, progress("succeeded")),
    "too_many_failed": ({"cpu": job("cpu", conditions=FAILED)}, progress("too_many_failed")),
    "superseded": ({"cpu": job("cpu", ready=1)}, progress("superseded")),
    "failed": ({"cpu": job("cpu", conditions=FAILED), "gpu": job("gpu", conditions=FAILED)}, progress("stalled")),
    "suspended": ({"cpu": job("cpu", suspend=True), "gpu": job("gpu", conditions=FAILED)}, progress("stalled")),
    "starting": ({"cpu": job("cpu", active=2)}, None),
    "planning": ({"cpu": job("cpu", ready=1)}, progress("planning")),
    "working": ({"cpu": job("cpu", ready=1), "gpu": job("gpu", active=1)}, progress("working")),
    "stalled": ({"cpu": job("cpu", conditions=COMPLETE)}, progress("stalled")),
    "ended_unseen": ({"cpu": job("cpu", conditions=COMPLETE)}, None),
    "queued": ({"cpu": job("cpu", suspend=True, queue="night"), "gpu": job("gpu", suspend=True, queue="night")}, None),
}


@pytest.mark.parametrize(("state", "seen"), STATES.items(), ids=STATES)
def test_the_state_in_storage_takes_precedence(state: str, seen: tuple[dict[str, Job], RunProgress | None]) -> None:
    jobs, told = seen
    assert release_status(release(**jobs), [], told, []).state == state


UNSEEN = {
    "the janitor was there": job("gpu", suspend=True),
    "the janitor comes soon": job("gpu", active=2),
    "it could not go on": job("gpu", conditions=FAILED),
}


@pytest.mark.parametrize("other", UNSEEN.values(), ids=UNSEEN)
def test_one_complete_pool_completes_the_release(other: Job) -> None:
    found = release_status(release(cpu=job("cpu", conditions=COMPLETE), gpu=other), [], None, [])
    assert found.state == "ended_unseen"
    _raise_on_failure(found)


EXITS: dict[str, type[Exception] | None] = {
    "complete": None,
    "ended_unseen": None,
    "too_many_failed": TooManyFailedError,
    "superseded": ConfigurationError,
    "failed": ConfigurationError,
    "stalled": WorkerError,
}


@pytest.mark.parametrize(("state", "error"), EXITS.items(), ids=EXITS)
def test_exit_codes_of_final_states(state: str, error: type[Exception] | None) -> None:
    jobs, told = STATES[state]
    found = release_status(release(**jobs), [], told, [])
    if error is None:
        _raise_on_failure(found)
        return
    with pytest.raises(error):
        _raise_on_failure(found)


def test_other_failures_are_worker_errors() -> None:
    jobs = {"cpu": job("cpu", conditions=(condition("Failed", "True", "MaxFailedIndexesExceeded", "too many"),))}
    dead = pod(0, "Failed", pool="cpu", containerStatuses=ended(70, message="DeviceError, exit 70: no GPU\n"))
    with pytest.raises(WorkerError, match="DeviceError, exit 70: no GPU"):
        _raise_on_failure(release_status(release(**jobs), [dead], None, []))


def test_failures_final_ones_first_then_the_newest() -> None:
    jobs = {"gpu": job("gpu", failedIndexes="3", ready=1)}
    dead = [pod(index, "Failed", containerStatuses=ended(137, "OOMKilled")) for index in range(30)]
    shown = release_status(release(**jobs), dead, None, []).failures
    assert len(shown) == SHOWN_FAILURES
    assert (shown[0].index, shown[0].is_final) == (3, True)
    assert [one.index for one in shown[1:4]] == [29, 28, 27]
    assert not any(one.is_final for one in shown[1:])


def test_all_failures_of_a_failed_job_are_final() -> None:
    jobs = {"gpu": job("gpu", conditions=FAILED), "cpu": job("cpu", ready=1, failedIndexes="1-2")}
    dead = [pod(index, "Failed", pool=pool, reason="Evicted") for pool in ("gpu", "cpu") for index in range(3)]
    shown = release_status(release(**jobs), dead, None, []).failures
    assert {(one.pool, one.index) for one in shown if one.is_final} == {
        ("gpu", 0), ("gpu", 1), ("gpu", 2), ("cpu", 1), ("cpu", 2),
    }  # fmt: skip
    assert {one.exit_code for one in shown} == {None}, "they had no container"


def test_only_failed_workers_are_failures() -> None:
    pods = [pod(0), pod(1, "Succeeded"), pod(2, "Pending"), pod(3, "Unknown"), pod(4, "Failed", pool="cpu")]
    assert release_status(release(gpu=job("gpu")), pods, None, []).failures == ()


POOL_STATES: dict[str, Job] = {
    "working": job("gpu", ready=1, active=2),
    "waiting": job("gpu", ready=0, active=2),
    "suspended": job("gpu", suspend=True),
    "queued": job("gpu", suspend=True, queue="night"),
    "complete": job("gpu", conditions=(condition("SuccessCriteriaMet"),)),
    "failed": job("gpu", ready=1, conditions=(condition("FailureTarget"), condition("Complete", "False"))),
}


@pytest.mark.parametrize(("state", "seen"), POOL_STATES.items(), ids=POOL_STATES)
def test_the_state_of_a_pool(state: str, seen: Job) -> None:
    assert release_status(release(gpu=seen), [], None, []).pools["gpu"].state == state


def test_pools_are_sorted_and_warnings_are_kept() -> None:
    found = release_status(release(gpu=job("gpu"), cpu=job("cpu", conditions=FAILED)), [], None, iter(["one", "two"]))
    assert list(found.pools) == ["cpu", "gpu"]
    assert found.pools["cpu"].reason == "PodFailurePolicy: exit code 78"
    assert found.warnings == ("one", "two")


LAST_WORDS = {
    "of the worker": (
        {"containerStatuses": ended(78, message="noise\nArtifactError, exit 78: no model\n")},
        "ArtifactError, exit 78: no model",
    ),
    "of the kernel": ({"containerStatuses": ended(137, "OOMKilled")}, "OOMKilled, exit 137"),
    "of an eviction": (
        {"conditions": [condition("DisruptionTarget", "True", "EvictionByEvictionAPI", "Eviction API: evicting")]},
        "Eviction API: evicting",
    ),
    "of an eviction that the worker has seen": (
        {
            "conditions": [condition("DisruptionTarget", "True", "PreemptionByScheduler", "preempted by another")],
            "containerStatuses": ended(75, message="InterruptedRunError, exit 75: stopped\n"),
        },
        "preempted by another: InterruptedRunError, exit 75: stopped",
    ),
    "of a disruption that did not come": (
        {"conditions": [condition("DisruptionTarget", "False")], "containerStatuses": ended(70, message="no GPU")},
        "no GPU",
    ),
    "none": ({"containerStatuses": ended(1, "", " \n")}, "ended, exit 1"),
    "of the kubelet": (
        {"reason": "Evicted", "message": 'Usage of EmptyDir volume "tmp"\nexceeds the limit'},
        'Evicted: Usage of EmptyDir volume "tmp" exceeds the limit',
    ),
}


@pytest.mark.parametrize(("status", "words"), LAST_WORDS.values(), ids=LAST_WORDS)
def test_the_reason_why_a_pod_ended(status: dict[str, Any], words: str) -> None:
    assert last_words(pod(0, "Failed", **status)) == words


def test_ranges_of_indexes() -> None:
    assert indexes_of("0-3,7,9-10") == [0, 1, 2, 3, 7, 9, 10]
    assert indexes_of("") == []
    assert count_of("0-4999") == 5000


def test_arguments_are_read_as_the_pod_sees_them() -> None:
    found = release(cpu=job("cpu"))
    assert (found.run, found.input_url, found.output_url) == (
        "night-1a2b3c4d",
        "s3://pictures/in",
        "s3://pictures/$(odd)",
    )
    assert found.environment == {"AWS_REGION": "eu-1"}
