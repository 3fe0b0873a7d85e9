"""Observation of a release: the API server over HTTP, the storage in a real folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from job.errors import ConfigurationError, UsageError
from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.run.run import Run, open_run
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from k8s.cluster import Cluster
from k8s.observe import observe
from tests.fakes import spec_of, write_inputs
from tests.k8s.api import Api
from tests.k8s.objects import condition, job, pod, time

RUN = "night-1a2b3c4d"
DONE = condition("Complete")
LATE_POD = pod(0, node="gpu-0", deleted=time(60))


def told(output: object) -> list[str]:
    return ["annotate", "--input_top_dir=/nowhere", f"--out_top_dir={output}", f"--run={RUN}"]


def event(name: str) -> dict[str, Any]:
    about = {"kind": "Job", "name": name, "namespace": "garage"}
    return {
        "metadata": {"name": f"{name}.18ff"},
        "involvedObject": about,
        "reason": "FailedCreate",
        "message": "exceeded quota",
        "eventTime": None,
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Six inputs, planned, nothing done."""
    write_inputs(tmp_path / "in", 6)
    store = LocalStore(tmp_path / "out", "x")
    run = open_run(store, spec_of(tmp_path / "in"), name=RUN, is_date_given=False, process_id="x")
    make_plan(run, Selection(run, LocalStore(tmp_path / "in", "x")), Sizing())
    store.close()
    return run


def test_progress_comes_from_storage(api: Api, run: Run) -> None:
    api.jobs = [job("gpu", args=told(f"file://{run.store.url}"), ready=1, active=2)]
    found = observe(Cluster(), "night", {})
    assert found.progress is not None
    assert (found.state, found.progress.planned, found.progress.left, found.warnings) == ("working", 6, 6, ())
    run.write_end(RunEnd(outcome="succeeded", by="x", inputs_listed=6, annotated=6))
    assert observe(Cluster(), "night", {}).state == "complete"


def test_no_warning_before_the_run_has_begun(api: Api, tmp_path: Path) -> None:
    api.jobs = [job("gpu", args=told(f"file://{tmp_path}/out"), active=2)]
    found = observe(Cluster(), "night", {})
    assert (found.state, found.progress, found.warnings) == ("starting", None, ())


def test_an_output_on_a_volume_is_not_read(api: Api) -> None:
    api.jobs = [job("gpu", args=told("/volumes/results/out"), ready=1, active=2)]
    found = observe(Cluster(), "night", {})
    assert (found.state, found.progress, found.output) == ("working", None, "/volumes/results/out")
    assert found.warnings == (
        "the output is a volume (/volumes/results/out), which only pods can read: progress is that of the Jobs",
    )


def test_an_output_that_cannot_be_read_is_a_warning(api: Api) -> None:
    api.jobs = [job("gpu", args=told("s3://pictures/out"), ready=1)]
    (warning,) = observe(Cluster(), "night", {"no_such_option": 1}).warnings
    assert warning.startswith("the output s3://pictures/out cannot be read from here: ")


def test_diagnostics_come_from_the_cluster(api: Api) -> None:
    api.jobs = [job("gpu", args=told("/volumes/results"), active=1)]
    api.pods = [LATE_POD]
    api.nodes = {"gpu-0": {"metadata": {"name": "gpu-0"}, "status": {"conditions": [condition("Ready", "Unknown")]}}}
    api.events = [event("night-gpu-0a1b2c3d"), event("another")]
    _, dead, quota = observe(Cluster(), "night", {}).warnings
    assert dead.startswith("node gpu-0 is not responding; 1 pod on it")
    assert quota == "Job night-gpu-0a1b2c3d cannot create pods: exceeded quota"


def test_old_events_are_ignored_once_no_pod_is_missing(api: Api) -> None:
    api.events = [event("night-gpu-0a1b2c3d")]
    for changes in ({"active": 2}, {"active": 1, "succeeded": 6, "failedIndexes": "7"}, {"conditions": (DONE,)}):
        api.jobs = [job("gpu", args=told("/volumes/results"), **changes)]
        assert len(observe(Cluster(), "night", {}).warnings) == 1
    api.jobs = [job("gpu", args=told("/volumes/results"), suspend=True)]
    assert len(observe(Cluster(), "night", {}).warnings) == 1


def test_events_and_nodes_are_optional(api: Api) -> None:
    api.jobs = [job("gpu", args=told("/volumes/results"), active=1)]
    api.pods = [LATE_POD]
    api.refused = {"events", "nodes"}
    _, dead = observe(Cluster(), "night", {}).warnings
    assert dead.startswith("node gpu-0 is not responding")


def test_forbidden_pods_are_an_error(api: Api) -> None:
    api.jobs = [job("gpu")]
    api.refused = {"pods"}
    with pytest.raises(ConfigurationError, match="refuses to list pods in namespace garage"):
        observe(Cluster(), "night", {})


def test_the_newest_job_of_a_pool_counts(api: Api) -> None:
    older, newer = job("gpu", args=told("/volumes/old")), job("gpu", args=told("/volumes/new"))
    for order in ([older, newer], [newer, older]):
        api.jobs = [_created(one, "2026-01-31T10:00:00Z" if one is older else "2026-01-31T11:00:00Z") for one in order]
        assert observe(Cluster(), "night", {}).output == "/volumes/new"


def _created(one: Any, when: str) -> dict[str, Any]:
    raw: dict[str, Any] = msgspec.to_builtins(one)
    raw["metadata"]["creationTimestamp"] = when
    return raw


def test_a_missing_release_is_a_usage_error(api: Api) -> None:
    api.jobs = [job("gpu")]
    with pytest.raises(UsageError, match="namespace garage has no Jobs of a release other"):
        observe(Cluster(), "other", {})
