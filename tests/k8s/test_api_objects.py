"""Fields of API objects that are read and ignored."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s.api_objects import Condition, Event, Job, Node, Pod, count_of, has_condition, indexes_of
from k8s.release import Release
from k8s.status import last_words, release_status
from tests.k8s import recorded


def a_pod(raw: bytes) -> Pod:
    return msgspec.json.decode(raw, type=Pod)


def test_a_job() -> None:
    job = msgspec.json.decode(recorded.JOB, type=Job)
    assert job.metadata.creation_timestamp == datetime(2026, 1, 31, 9, 12, 1, tzinfo=UTC)
    assert (job.spec.completions, job.spec.parallelism, job.spec.suspend) == (8, 2, False)
    assert (job.status.succeeded, job.status.failed, job.status.active) == (4, 3, 0)
    assert job.has_ended
    pool = release_status(Release("night", "garage", {"gpu": job}), [], None, []).pools["gpu"]
    assert (pool.state, pool.indexes_done, pool.indexes_failed, pool.pods_failed) == ("failed", 4, 1, 3)
    assert pool.reason.startswith("PodFailurePolicy: Container annotate for pod garage/night-sam3-annotate-gpu")


def test_arguments_and_storage_variables_of_a_job() -> None:
    found = Release("night", "garage", {"gpu": msgspec.json.decode(recorded.JOB, type=Job)})
    assert found.arguments == ["--out_top_dir=s3://pictures/out", "--run=night-8b858da8", "--include=$(HOME)*"]
    assert (found.run, found.output_url, found.input_url) == ("night-8b858da8", "s3://pictures/out", "")
    assert found.environment == {"AWS_ENDPOINT_URL_S3": "https://s3.example"}


def test_a_job_without_a_status() -> None:
    job = msgspec.json.decode(recorded.NEW_JOB, type=Job)
    assert not job.has_ended
    assert (job.status.active, job.status.completed_indexes, job.status.conditions) == (0, "", [])


def test_a_pod_that_was_killed() -> None:
    pod = a_pod(recorded.OUT_OF_MEMORY)
    assert (pod.pool, pod.index, pod.spec.node_name, pod.status.phase) == ("cpu", 3, "cpu-1", "Failed")
    assert pod.waiting is None
    assert pod.terminated is not None
    assert (pod.terminated.exit_code, pod.terminated.reason, pod.terminated.message) == (137, "OOMKilled", "")
    assert last_words(pod) == "OOMKilled, exit 137"


def test_the_reason_of_an_eviction_is_given_once() -> None:
    pod = a_pod(recorded.EVICTED)
    assert has_condition(pod.status.conditions, "DisruptionTarget")
    assert last_words(pod) == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 81Mi.: Evicted: Error, exit 137"
    )


def test_a_pending_pod_that_is_not_a_worker() -> None:
    pod = a_pod(recorded.CREATING)
    assert (pod.pool, pod.index, pod.terminated) == ("", None, None)
    assert pod.waiting is not None
    assert pod.waiting.reason == "ContainerCreating"
    assert pod.metadata.deletion_timestamp is None


def test_a_running_pod_is_neither_waiting_nor_terminated() -> None:
    pod = a_pod(recorded.CREATING.replace(b'"waiting"', b'"running"'))
    assert (pod.waiting, pod.terminated) == (None, None)


def test_an_event() -> None:
    event = msgspec.json.decode(recorded.EVENT, type=Event)
    assert (event.involved_object.kind, event.reason, event.type) == ("Job", "FailedCreate", "Warning")
    assert event.involved_object.name == "night-sam3-annotate-gpu-66b16f5e"


def test_a_node_whose_kubelet_does_not_report() -> None:
    node = msgspec.json.decode(recorded.NODE, type=Node)
    assert not node.is_ready
    assert msgspec.json.decode(recorded.NODE.replace(b'"Unknown"', b'"True"'), type=Node).is_ready


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_condition_must_be_true(status: str) -> None:
    assert not has_condition([Condition(type="Ready", status=status)], "Ready")
    assert not has_condition([Condition(type="Other", status="True")], "Ready")


def ranges_of(indexes: list[int]) -> str:
    """As the Job controller writes them."""
    runs: list[list[int]] = []
    for index in indexes:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}{',' if len(run) == 2 else '-'}{run[-1]}" for run in runs]
    return ",".join(parts)


@given(st.sets(st.integers(0, 300)))
def test_ranges_name_every_index_once(indexes: set[int]) -> None:
    text = ranges_of(sorted(indexes))
    assert indexes_of(text) == sorted(indexes)
    assert count_of(text) == len(indexes)
