"""What submit finds out: the next pass of a run, what is left to do, its plan."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from job.errors import ConfigurationError, UsageError
from job.local_store import LocalStore
from job.plan import read_plan
from job.run import Run, RunEnd, find_named
from k8s.helm import CHECKOUT_CHART, Helm, HelmError, ReleaseMissingError, find_chart
from k8s.looking import storage_of
from k8s.release import Release
from k8s.submission import Chart, StorageOptions, find_work, is_reachable, make_plan, next_pass
from tests.k8s.objects import job, release

HERE = StorageOptions()


def release_of(source: Path, target: Path, run: str = "night-1a2b3c4d", *flags: str) -> Release:
    """A release whose workers were told of these folders, as URLs."""
    arguments = [
        "annotate", f"--input_top_dir=file://{source}", f"--out_top_dir=file://{target}", f"--run={run}", *flags,
    ]  # fmt: skip
    return release(cpu=job("cpu", args=arguments))


def end(target: Path, *runs: str) -> None:
    for name in runs:
        Run(LocalStore(target, "tester"), name, None).write_end(RunEnd(outcome="succeeded", by="x"))  # type: ignore[arg-type]


def test_a_run_that_has_not_ended_goes_on(tmp_path: Path) -> None:
    assert next_pass(release_of(tmp_path, tmp_path), HERE) is None


@pytest.mark.parametrize(
    ("run", "ended", "following"),
    [
        ("night-1a2b3c4d", ["night-1a2b3c4d"], "night-2"),
        ("night-1a2b3c4d", ["night-1a2b3c4d", "night-2-1a2b3c4d"], "night-3"),
        ("night-9-1a2b3c4d", ["night-9-1a2b3c4d"], "night-10"),
        ("x-1a2b3c4d", ["x-1a2b3c4d", "x-2-99999999"], "x-2"),
    ],
)
def test_a_run_that_has_ended_is_followed_by_the_next(
    tmp_path: Path, run: str, ended: list[str], following: str
) -> None:
    end(tmp_path, *ended)
    assert next_pass(release_of(tmp_path, tmp_path, run), HERE) == following


def test_work_is_counted_without_a_trace_and_planned_on_demand(scenes: Path, tmp_path: Path) -> None:
    submitted = release_of(scenes, tmp_path / "out", "night-1a2b3c4d", "--supersede", "--limit=5", "--device=cuda")
    assert find_work(submitted, HERE).images == 5
    assert not (tmp_path / "out").exists()

    make_plan(submitted, HERE, num_indexes=2)
    plan = read_plan(find_named(LocalStore(tmp_path / "out", "tester"), "night-1a2b3c4d"))
    assert plan is not None
    assert plan.inputs_planned == 5
    work = find_work(submitted, HERE)
    assert (work.images, work.is_planned) == (5, True)
    make_plan(submitted, HERE, num_indexes=2)
    assert read_plan(find_named(LocalStore(tmp_path / "out", "tester"), "night-1a2b3c4d")) == plan


REACHABLE = ["--input_top_dir=s3://pictures/in", "--out_top_dir=s3://pictures/out", "--model_cache=/cache/models"]


def test_urls_can_be_read_from_here() -> None:
    secrets = ["--input_storage_options=/secrets/input/storage_options.json", "--include=/volumes/*"]
    assert is_reachable(release(cpu=job("cpu", args=["annotate", *REACHABLE, *secrets, "--model=s3://models/sam3"])))


@pytest.mark.parametrize(
    "place",
    [
        "--input_top_dir=/volumes/pictures/in",
        "--out_top_dir=/mnt/results",
        "--model=/volumes/models/sam3",
        "--input_list=/mnt/list.csv",
    ],
)
def test_paths_lead_into_volumes_that_only_pods_can_read(place: str) -> None:
    assert not is_reachable(release(cpu=job("cpu", args=["annotate", *REACHABLE, place])))


def test_the_workers_region_is_used_where_this_machine_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    with storage_of(release(cpu=job("cpu"))):
        assert os.environ["AWS_REGION"] == "eu-1"
    assert "AWS_REGION" not in os.environ
    monkeypatch.setenv("AWS_REGION", "us-2")
    with storage_of(release(cpu=job("cpu"))):
        assert os.environ["AWS_REGION"] == "us-2"


def test_computed_values_come_after_those_given() -> None:
    chart = Chart("night", "./chart", ("--values=a.yaml",)).with_values({"pools.gpu.completions": 8, "run.name": "x"})
    assert chart.arguments == (
        "--values=a.yaml", "--set-json", "pools.gpu.completions=8", "--set-json", 'run.name="x"',
    )  # fmt: skip


def test_the_chart_is_that_of_the_checkout_unless_given() -> None:
    assert find_chart(None) == str(CHECKOUT_CHART)
    assert find_chart("oci://registry.example/chart") == "oci://registry.example/chart"


def test_without_helm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="needs the program helm"):
        Helm("garage").uninstall("night")


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("Error: release: not found", ReleaseMissingError),
        ("Error: values don't meet the specifications of the schema(s)", UsageError),
        ("Error: kubernetes cluster unreachable: connection refused", HelmError),
    ],
)
def test_what_helm_says_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str, error: type[Exception]
) -> None:
    program = tmp_path / "helm"
    program.write_text(f'#!/bin/sh\necho "{told}" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(error, match=told.removeprefix("Error: ").partition("(")[0]):
        Helm("garage").uninstall("night")
    if error is ReleaseMissingError:
        assert Helm("garage").given_values("night") is None
