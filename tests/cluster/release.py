"""A release of the chart in its own namespace: changed by helm, read by the API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.chart.rendering import CHART, Values, merged
from tests.cluster.access import SPARE, Cluster, Job, Pod, exit_code
from tests.cluster.locations import Location
from tests.processes import DATE

NAME = "night"
SECRET = "s3-keys"
TOOL = Path(sys.executable).parent / "sam3-annotate"


@dataclass(frozen=True)
class Release:
    """A release and the location of its output."""

    cluster: Cluster
    namespace: str
    location: Location
    folder: Path

    # ---- changing
    def install(self, values: Values) -> subprocess.CompletedProcess[str]:
        return self.helm("install", NAME, str(CHART), "--values", self.file(values))

    def upgrade(self, *flags: str) -> subprocess.CompletedProcess[str]:
        return self.helm("upgrade", NAME, str(CHART), "--reuse-values", *flags)

    def helm(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(["helm", "--namespace", self.namespace, *arguments], check=check)

    def revision(self) -> str:
        """Current revision of the release."""
        return str(json.loads(self.helm("status", NAME, "--output", "json").stdout)["version"])

    def annotator(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`sam3-annotate`, as the user of this release calls it."""
        return run([str(TOOL), *arguments], check=check)

    def status(self) -> dict[str, Any]:
        found = self.annotator("status", NAME, "-n", self.namespace, "-o", "json").stdout
        status: dict[str, Any] = json.loads(found)
        return status

    def file(self, values: Values) -> str:
        path = self.folder / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    # ---- reading
    def all_jobs(self) -> list[Job]:
        return list(self.cluster.batch.list_namespaced_job(self.namespace).items)

    def jobs(self) -> dict[str, Job]:
        """Jobs of the pools, by pool."""
        label = "sam3-annotate/pool"
        return {job.metadata.labels[label]: job for job in self.all_jobs() if label in job.metadata.labels}

    def job(self, pool: str) -> Job:
        return self.jobs()[pool]

    @property
    def run(self) -> str:
        (name,) = {job.metadata.labels["sam3-annotate/run"] for job in self.jobs().values()}
        return str(name)

    def pods(self, pool: str = "") -> list[Pod]:
        """Worker pods, including terminated ones."""
        selector = "app.kubernetes.io/component=worker" + (f",sam3-annotate/pool={pool}" if pool else "")
        return list(self.cluster.core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def working(self, pool: str) -> list[Pod]:
        """Running pods that are not being deleted."""
        return [pod for pod in self.pods(pool) if pod.status.phase == "Running" and not pod.metadata.deletion_timestamp]

    def codes(self, pool: str = "") -> list[int]:
        return [code for pod in self.pods(pool) if (code := exit_code(pod)) is not None]

    # ---- waiting
    def wait_for(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        return self.cluster.wait_for(condition, timeout_s, what, self.namespace)

    def wait_for_end(self, timeout_s: float = 240) -> None:
        """Wait until the run has ended in storage."""
        self.wait_for(lambda: self.location.end(self.run), timeout_s, f"end of run {self.run}")

    def wait_for_images(self, count: int, timeout_s: float = 120) -> None:
        """Wait until this many images are annotated."""
        self.wait_for(lambda: self.location.annotated() >= count, timeout_s, f"{count} annotated images")
        assert self.location.end(self.run) is None, "the run has ended before it could be disturbed"


def run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program; the error of a failure holds its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


TWO: Values = {"completions": 2, "parallelism": 2}
ON_ACCELERATOR: Values = {"gpu": {"resourceName": "nvidia.com/gpu"}}


def base_values(cluster: Cluster, location: Location) -> Values:
    """Values for two small pools on the cpu image, with one thread for each pod.

    The gpu pool asks for a resource that is no device, so that tests can share a node: see the fixture `gpu`.
    """
    repository, _, tag = cluster.image.rpartition(":")
    pool: Values = {
        "image": {"tag": tag},
        "completions": 2,
        "parallelism": 1,
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"cpu": 1, "memory": "1Gi"},
        },
    }
    return {
        "input": {"url": location.url("in")},
        "output": {"url": location.url("out")},
        "s3": {
            "endpoint": cluster.server.endpoint_url,
            "region": cluster.server.region,
            "existingSecret": SECRET,
        },
        "annotation": {"date": DATE},
        "image": {"repository": repository, "pullPolicy": "IfNotPresent"},
        "gpu": {"resourceName": cluster.gpu_resource},
        "pools": {"gpu": merged(pool, {"allowCpu": True, "deviceRetrySeconds": 0}), "cpu": pool},
        "janitor": {"image": {"tag": tag}},
        "worker": {"journalIntervalSeconds": 2, "shardSize": 10},
        "job": {"terminationGracePeriodSeconds": 30},
    }


def slow(share: str) -> Values:
    """Pods with a fraction of a CPU, so that tests can disturb them; requests equal limits."""
    granted = {"cpu": share, "memory": "1Gi"}
    return {"pools": {pool: {"resources": {"requests": granted, "limits": granted}} for pool in ("gpu", "cpu")}}


def only(pool: str) -> Values:
    return {"pools": {other: {"enabled": other == pool} for other in ("gpu", "cpu")}}


def on_nodes(first: str, *others: str) -> Values:
    """Two cpu pods on the first of these nodes that takes them; the first is `spare`."""

    def among(*names: str) -> Values:
        return {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": list(names)}]}

    affinity = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [among(first, *others)]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": among(first)}],
    }
    tolerations = [SPARE, {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {"pools": {"cpu": {"affinity": {"nodeAffinity": affinity}, "tolerations": tolerations, **TWO}}}
