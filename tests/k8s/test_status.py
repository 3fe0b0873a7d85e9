"""What a release is said to do: its state, its failures with last words, its screen."""

from __future__ import annotations

from typing import Any

import pytest

from job.errors import ConfigurationError, TooManyFailedError, WorkerError
from job.run_progress import RunProgress, State
from k8s.commands.status import _raise_if_bad
from k8s.objects import Job, count_of, indexes_of
from k8s.screen import lines_of
from k8s.status import SHOWN_FAILURES, judge, last_words
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
}


@pytest.mark.parametrize(("state", "seen"), STATES.items(), ids=STATES)
def test_what_the_storage_says_goes_before_what_jobs_say(
    state: str, seen: tuple[dict[str, Job], RunProgress | None]
) -> None:
    jobs, told = seen
    assert judge(release(**jobs), [], told, []).state == state


EXITS: dict[str, type[Exception] | None] = {
    "complete": None,
    "ended_unseen": None,
    "too_many_failed": TooManyFailedError,
    "superseded": ConfigurationError,
    "failed": ConfigurationError,
    "stalled": WorkerError,
}


@pytest.mark.parametrize(("state", "error"), EXITS.items(), ids=EXITS)
def test_the_exit_code_tells_how_it_ended(state: str, error: type[Exception] | None) -> None:
    jobs, told = STATES[state]
    found = judge(release(**jobs), [], told, [])
    if error is None:
        _raise_if_bad(found)
        return
    with pytest.raises(error):
        _raise_if_bad(found)


def test_failed_otherwise_is_no_configuration() -> None:
    jobs = {"cpu": job("cpu", conditions=(condition("Failed", "True", "MaxFailedIndexesExceeded", "too many"),))}
    dead = pod(0, "Failed", pool="cpu", containerStatuses=ended(70, message="DeviceError, exit 70: no GPU\n"))
    with pytest.raises(WorkerError, match="DeviceError, exit 70: no GPU"):
        _raise_if_bad(judge(release(**jobs), [dead], None, []))


def test_failures_final_ones_first_then_the_newest() -> None:
    jobs = {"gpu": job("gpu", failedIndexes="3", ready=1)}
    dead = [pod(index, "Failed", containerStatuses=ended(137, "OOMKilled")) for index in range(30)]
    shown = judge(release(**jobs), dead, None, []).failures
    assert len(shown) == SHOWN_FAILURES
    assert (shown[0].index, shown[0].is_final) == (3, True)
    assert [one.index for one in shown[1:4]] == [29, 28, 27]
    assert not any(one.is_final for one in shown[1:])


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
    "of the kubelet": (
        {"reason": "Evicted", "message": 'Usage of EmptyDir volume "tmp"\nexceeds the limit'},
        'Evicted: Usage of EmptyDir volume "tmp" exceeds the limit',
    ),
}


@pytest.mark.parametrize(("status", "words"), LAST_WORDS.values(), ids=LAST_WORDS)
def test_last_words(status: dict[str, Any], words: str) -> None:
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


def test_the_screen() -> None:
    jobs = {"cpu": job("cpu", ready=2, active=2, completedIndexes="0-2", failed=1), "gpu": job("gpu", active=2)}
    told = progress("working", planned=1000, done=250, failed=2, left=750, images_per_s=2.5, eta_s=300.0)
    dead = pod(4, "Failed", pool="cpu", containerStatuses=ended(75, message="InterruptedRunError, exit 75: stopped"))
    assert list(
        lines_of(judge(release(**jobs), [dead], told, ["2 pods of pool gpu wait for a node: none has one"]))
    ) == [
        "Release night in namespace garage: working",
        "Run     night-1a2b3c4d, into s3://pictures/$(odd)",
        "Done    250 of 1000 (25.0 %), 2 failed",
        "Rate    2.50 images/s, 0:05:00 to go",
        "",
        "POOL  STATE      PODS       INDEXES DONE   FAILED  PODS FAILED  JOB",
        "cpu   working    2 of 2     3 of 8         0       1            night-cpu-0a1b2c3d",
        "gpu   waiting    2 of 2     0 of 8         0       0            night-gpu-0a1b2c3d",
        "",
        "Index 4 of cpu, will be tried again: InterruptedRunError, exit 75: stopped (night-cpu-4)",
        "",
        "Warning: 2 pods of pool gpu wait for a node: none has one",
    ]
