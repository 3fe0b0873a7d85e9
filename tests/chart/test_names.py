"""Names of Jobs and runs: which values change them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chart.rendering import (
    EVERYTHING,
    EXPORT,
    ON_S3,
    ON_VOLUMES,
    POOLS,
    Values,
    at,
    flag,
    merged,
    render,
    render_names,
)

RESOURCES = {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1Gi"}}

# Values that patch a running Job.
PATCHES: dict[str, Any] = {
    "pools.gpu.parallelism": 7, "pools.cpu.parallelism": 0, "pools.gpu.suspend": True, "pools.cpu.suspend": True,
    "commonLabels": {"team": "garage"}, "serviceAccount.annotations": {"cloud.example/identity": "annotator"},
    "podMonitor.enabled": True, "janitor.mode": "never", "janitor.resources": RESOURCES, "doctor.pool": "gpu",
}  # fmt: skip

# Values that create other Jobs of these pools, which resume the same run.
REPLACEMENTS: dict[str, tuple[Any, set[str]]] = {
    "pools.gpu.resources": (RESOURCES, {"gpu"}),
    "pools.cpu.resources": (RESOURCES, {"cpu"}),
    "pools.gpu.completions": (9, {"gpu"}),
    "pools.cpu.image.tag": ("other", {"cpu"}),
    "pools.gpu.image.digest": ("sha256:" + "a" * 64, {"gpu"}),
    "pools.gpu.model.uri": ("s3://models/fp16", {"gpu"}),
    "pools.cpu.model.digest": ("d" * 64, {"cpu"}),
    "pools.gpu.allowCpu": (True, {"gpu"}),
    "pools.gpu.deviceRetrySeconds": (0, {"gpu"}),
    "pools.cpu.nodeSelector": ({"zone": "a"}, {"cpu"}),
    "gpu.resourceName": ("amd.com/gpu", {"gpu"}),
    "gpu.nodeLabels": (["amd.com/gpu.present"], {"cpu"}),
    "image.tag": ("2.0.0", set(POOLS)),
    "worker.shardSize": (10, set(POOLS)),
    "worker.maxFailedFraction": (0.5, set(POOLS)),
    "job.backoffLimitPerIndex": (3, set(POOLS)),
    "s3.existingSecret": ("other-keys", set(POOLS)),
    "input.existingSecret": ("options", set(POOLS)),
    "extraEnv": ([{"name": "A", "value": "b"}], set(POOLS)),
    "podAnnotations": ({"a": "b"}, set(POOLS)),
}

# Values that change outputs or selection.
NEW_RUNS: dict[str, Any] = {
    "input.url": "s3://pictures/other",
    "output.url": "s3://pictures/elsewhere",
    "selection.include": ["cen*"],
    "selection.exclude": ["cen*"],
    "selection.limit": 5,
    "selection.missingJson": "create",
    "selection.inputList": {"url": "s3://pictures/keys.txt"},
    "selection.override": True,
    "selection.overrideReviewed": True,
    "annotation.prompts": ["license plate", "car", "person"],
    "annotation.confidenceThreshold": 0.5,
    "annotation.classes": "s3://pictures/classes.yaml",
    "annotation.candidatesThreshold": 0.1,
    "annotation.date": "2026-01-31",
    "annotation.imageMode": "none",
    "annotation.instances": "none",
    "annotation.maxImagePixels": 1000,
    "checkpointDigest": "c" * 64,
    "run.name": "spring",
}


def test_names_say_release_pool_and_hash() -> None:
    release = render(ON_S3)

    assert re.fullmatch(r"night-sam3-annotate-gpu-[0-9a-f]{8}", release.job_names["gpu"])
    assert re.fullmatch(r"night-sam3-annotate-cpu-[0-9a-f]{8}", release.job_names["cpu"])
    assert re.fullmatch(r"night-[0-9a-f]{8}", release.run)
    assert [flag(job, "run") for job in release.jobs.values()] == [[release.run]] * 2


def test_the_same_values_are_the_same_release() -> None:
    assert render(ON_S3) == render(merged(ON_S3, {}))


@pytest.mark.parametrize("path", PATCHES)
def test_some_values_keep_the_jobs(path: str) -> None:
    before, after = render(ON_S3), render(merged(ON_S3, at(path, PATCHES[path])))

    assert (after.job_names, after.run) == (before.job_names, before.run)
    assert [job["spec"]["template"] for job in after.jobs.values()] == [
        job["spec"]["template"] for job in before.jobs.values()
    ]


@pytest.mark.parametrize("path", REPLACEMENTS)
def test_some_values_create_new_jobs_of_the_same_run(path: str) -> None:
    value, changed = REPLACEMENTS[path]
    before, after = render(ON_S3), render(merged(ON_S3, at(path, value)))

    assert after.run == before.run
    assert {pool for pool in POOLS if after.job_names[pool] != before.job_names[pool]} == changed


@pytest.mark.parametrize("path", NEW_RUNS)
def test_values_that_change_outputs_or_selection_start_a_new_run(path: str) -> None:
    before, after = render(ON_S3), render(merged(ON_S3, at(path, NEW_RUNS[path])))

    assert after.run != before.run
    assert not set(after.job_names.values()) & set(before.job_names.values())
    assert after.run.startswith("spring-" if path == "run.name" else "night-")


def test_a_chart_of_another_version_changes_no_pod() -> None:
    job = render(ON_S3).jobs["gpu"]

    assert "helm.sh/chart" in job["metadata"]["labels"]
    assert "0.1.0" not in str(job["spec"]["template"]["metadata"])


@pytest.mark.parametrize(
    ("path", "as_file", "as_set"),
    [
        ("annotation.maxImagePixels", 100000000.0, 100000000),
        ("annotation.confidenceThreshold", 0.25, "0.25"),
        ("selection.limit", 1000000.0, 1000000),
        ("pools.gpu.completions", 100.0, 100),
        ("input.url", "s3://pictures/in/", "s3://pictures/in"),
    ],
)
def test_two_spellings_of_a_value_are_one_value(path: str, as_file: object, as_set: object) -> None:
    assert render(merged(ON_S3, at(path, as_file))) == render(merged(ON_S3, at(path, as_set)))


def test_volumes_of_other_claims_are_other_runs() -> None:
    other = at("input.pvc.claimName", "more-pictures")

    assert render(ON_VOLUMES).run != render(merged(ON_VOLUMES, other)).run


VALUES = {"s3": ON_S3, "volumes": ON_VOLUMES, "everything": EVERYTHING, "export": EXPORT}

# Release names that Helm allows.
RELEASE_NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?", fullmatch=True) | st.from_regex(
    r"[a-z0-9]([-a-z0-9]{0,24}[a-z0-9])?\.[a-z0-9]([-a-z0-9]{0,24}[a-z0-9])?", fullmatch=True
)


MANY_NAMES = st.lists(RELEASE_NAMES, min_size=25, max_size=25, unique=True)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_many_releases_in_one_call_are_what_each_is_alone(values: Values) -> None:
    names = ["night", "a.b", "x" * 53]

    for name, release in zip(names, render_names(values, names), strict=True):
        alone = render(values, name=name)
        assert sorted(release.manifests, key=str) == sorted(alone.manifests, key=str)


@settings(max_examples=3)
@given(names=MANY_NAMES)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_names_of_any_release_fit_the_limits(values: Values, names: list[str]) -> None:
    for release in render_names(values, names):
        for manifest in (*release.of("Job"), *release.of("Pod")):
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,43}[a-z0-9])?", manifest["metadata"]["name"])
        for manifest in release.manifests:
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", manifest["metadata"]["name"])
            assert all(len(value) <= 63 for value in manifest["metadata"]["labels"].values())


@settings(max_examples=4)
@given(names=MANY_NAMES)
def test_no_two_releases_have_a_job_in_common(names: list[str]) -> None:
    found = [name for release in render_names(ON_S3, names) for name in release.job_names.values()]

    assert len(found) == len(set(found)) == 2 * len(names)
