"""submit, status, logs and cancel as commands; SCREENS names a folder that keeps their output."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chart.rendering import CHART, merged
from tests.cluster.access import Cluster
from tests.cluster.conftest import COUNT
from tests.cluster.locations import check_complete
from tests.cluster.release import NAME, Release, base_values, slow

FIGURES = (
    "--images_per_s=gpu=60", "--images_per_s=cpu=0.8", "--price_per_hour=gpu=4", "--price_per_hour=cpu=0.2",
)  # fmt: skip
Call = Callable[..., str]


@pytest.fixture
def call(release: Release) -> Call:
    """Calls a command for this release, expects an exit code, and keeps the screen under a name."""

    def called(command: str, *flags: str, keep: str = "", code: int = 0) -> str:
        done = release.annotator(command, NAME, "-n", release.namespace, *flags, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        shown = done.stdout if code == 0 else done.stderr
        folder = os.environ.get("SCREENS")
        if keep and folder:
            typed = " ".join(["sam3-annotate", command, NAME, "-n", "garage", *flags])
            Path(folder, f"{keep}.txt").write_text(neutral(f"$ {typed}\n{done.stderr}{done.stdout}", release))
        return shown

    return called


def neutral(text: str, release: Release) -> str:
    """Without the names that a test makes up."""
    location = release.location
    for found, shown in (
        (location.url("in"), "s3://pictures/in"),
        (location.url("out"), "s3://pictures/out"),
        (release.namespace, "garage"),
        (str(release.folder), "."),
    ):
        text = text.replace(found, shown)
    return text


def newer_chart(folder: Path) -> str:
    copy = folder / "chart"
    shutil.copytree(CHART, copy)
    text = (copy / "Chart.yaml").read_text()
    (copy / "Chart.yaml").write_text(re.sub(r"(?m)^version: .*", "version: 99.0.0", text))
    return str(copy)


def test_a_release_from_submit_to_cancel(
    cluster: Cluster, release: Release, quiet: dict[str, bytes], call: Call
) -> None:
    values = release.file(merged(base_values(cluster, release.location), slow("150m")))
    shown = call("submit", "-f", values, *FIGURES, "--dry_run", keep="submit-dry-run")
    listed = COUNT + 1  # and a broken one
    assert f"inputs to do: {listed}" in shown
    assert not release.all_jobs(), "a dry run changes nothing"
    refused = call("submit", "-f", values, *FIGURES, "--max_cost=0.000001", code=2, keep="submit-max-cost")
    assert "--max_cost" in refused
    assert not release.all_jobs()

    told = json.loads(call("submit", "-f", values, *FIGURES, "-o", "json"))
    assert (told["images"], told["run"]) == (listed, release.run)
    assert told["sizes"]["pools"]["cpu"]["completions"] == release.job("cpu").spec.completions
    release.wait_for_images(5)
    assert str(listed) in call("status", keep="status-working")
    jobs = {job.metadata.name for job in release.all_jobs()}
    assert f"run {release.run};" in call("submit", *FIGURES)
    assert {job.metadata.name for job in release.all_jobs()} == jobs, "no pod is thrown away"
    refused = call("suspend", "--chart", newer_chart(release.folder), code=2)
    assert "was installed from version" in refused
    lines = call("logs", "--pool", "cpu", "--tail", "4", keep="logs").splitlines()
    assert lines
    assert all(line.startswith("cpu-0 {") for line in lines)
    json.loads(lines[-1].removeprefix("cpu-0 "))

    call("status", "--wait")
    assert "complete" in call("status", keep="status-complete")
    check_complete(release.location, release.run, quiet)

    first = release.run
    again = call("submit", keep="submit-again")
    assert release.run.startswith("night-2-")
    assert "inputs to do: 1" in again, "what has failed is tried again"
    release.wait_for_end()
    assert release.run.partition("-2-")[2] == first.rpartition("-")[2]

    assert "--yes" in call("cancel", code=2)
    assert release.all_jobs()
    call("cancel", "--yes", keep="cancel")
    assert not release.all_jobs()
    assert "no Jobs of a release night" in call("status", code=2)
