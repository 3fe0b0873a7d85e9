"""The text output of `status`, line by line."""

from __future__ import annotations

from typing import Any

import pytest

from job.tools.progress import RunProgress
from k8s.api_objects import Job
from k8s.cli.status import lines_of
from k8s.status import release_status
from tests.k8s.objects import condition, ended, job, pod, release


def progress(**fields: Any) -> RunProgress:
    return RunProgress(**({"run": "night-1a2b3c4d", "state": "working"} | fields))


def shown(*warnings: str, told: RunProgress | None = None, pods: Any = (), **jobs: Job) -> list[str]:
    return list(lines_of(release_status(release(**jobs), pods, told, warnings)))


def test_the_text_of_a_working_release() -> None:
    jobs = {"cpu": job("cpu", ready=2, active=2, completedIndexes="0-2", failed=1), "gpu": job("gpu", active=2)}
    told = progress(planned=1000, done=250, failed=2, left=750, images_per_s=2.5, eta_s=300.0)
    dead = pod(4, "Failed", pool="cpu", containerStatuses=ended(75, message="InterruptedRunError, exit 75: stopped"))
    assert shown("2 pods of pool gpu cannot be scheduled: none has one", told=told, pods=[dead], **jobs) == [
        "Release night in namespace garage: working",
        "Run     night-1a2b3c4d, into s3://pictures/$(odd)",
        "Done    250 of 1000 (25.0 %), 2 failed",
        "Rate    2.50 images/s, 0:05:00 to go",
        "",
        "POOL  STATE      PODS       INDEXES DONE   FAILED  PODS FAILED  JOB",
        "cpu   working    2 of 2     3 of 8         0       1            night-cpu-0a1b2c3d",
        "gpu   waiting    2 of 2     0 of 8         0       0            night-gpu-0a1b2c3d",
        "",
        "Index 4 of cpu failed, not final: InterruptedRunError, exit 75: stopped (night-cpu-4)",
        "",
        "Warning: 2 pods of pool gpu cannot be scheduled: none has one",
    ]


def test_the_text_of_a_failed_release() -> None:
    reason = condition("Failed", "True", "PodFailurePolicy", "failed with exit code 78")
    dead = pod(0, "Failed", containerStatuses=ended(78, message="ArtifactError, exit 78: no model"))
    assert shown(pods=[dead], gpu=job("gpu", conditions=(reason,), failed=1)) == [
        "Release night in namespace garage: FAILED: no Job can continue",
        "Run     night-1a2b3c4d, into s3://pictures/$(odd)",
        "",
        "POOL  STATE      PODS       INDEXES DONE   FAILED  PODS FAILED  JOB",
        "gpu   failed     0 of 2     0 of 8         0       1            night-gpu-0a1b2c3d",
        "Pool gpu failed: PodFailurePolicy: failed with exit code 78",
        "",
        "Index 0 of gpu failed permanently: ArtifactError, exit 78: no model (night-gpu-0)",
    ]


PROGRESS: dict[str, tuple[RunProgress, list[str]]] = {
    "no plan yet": (progress(state="planning"), ["Done    0 of 0, 0 failed"]),
    "at work, no rate yet": (
        progress(planned=10, left=10, inputs_done_before=5),
        [
            "Done    0 of 10 (0.0 %), 0 failed; 5 were done before",
            "Rate    not known yet: workers report it every 30 s",
        ],
    ),
    "more than a day": (
        progress(planned=10**6, left=10**6, images_per_s=4.0, eta_s=250000.4),
        ["Done    0 of 1000000 (0.0 %), 0 failed", "Rate    4.00 images/s, 2 days, 21:26:40 to go"],
    ),
    "over results of others": (
        progress(planned=3, inputs_done_before=5, other_options=("prompts", "model_id")),
        [
            "Done    0 of 3 (0.0 %), 0 failed; 5 were done before",
            "Kept    results of earlier runs, with another prompts and model_id",
        ],
    ),
    "all done": (progress(planned=3, done=3, images_per_s=1.0), ["Done    3 of 3 (100.0 %), 0 failed"]),
}


@pytest.mark.parametrize(("told", "lines"), PROGRESS.values(), ids=PROGRESS)
def test_progress(told: RunProgress, lines: list[str]) -> None:
    lines_shown = shown(told=told, cpu=job("cpu", ready=1))
    assert lines_shown[2 : lines_shown.index("")] == lines
