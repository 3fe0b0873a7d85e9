"""The test cluster: its API, its storage, and node failures that only the kit can cause."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.s3.servers import S3Server

Pod = client.V1Pod
Job = client.V1Job

POLL_S = 0.5
PATIENCE = float(os.environ.get("PATIENCE", "1"))
"""Factor of all waits, for a machine that has other work."""
SHARED_GPU = "tests.example/gpu"
"""Resource of the kit's GPU nodes that several pods can have."""
GPU_LABEL = "nvidia.com/gpu.present"
SPARE = {"key": "tests/spare", "operator": "Exists", "effect": "NoSchedule"}
"""Toleration of the node that tests may break; no other pods run there."""
OUT_OF_SERVICE = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}


@dataclass(frozen=True)
class Cluster:
    """Clients of the test cluster.

    Attributes:
        core: Pods, nodes, events, namespaces.
        batch: Jobs.
        server: The S3 server, for tests and pods alike.
        bucket: A bucket of it.
        image: The cpu image, as `repository:tag`, which the nodes have or can pull.
        other_image: Another name of the same image.
        kit: Program that breaks and repairs nodes (CLUSTER_KIT), or empty where nodes cannot be broken.
    """

    core: client.CoreV1Api
    batch: client.BatchV1Api
    server: S3Server
    bucket: str
    image: str
    other_image: str
    kit: str

    @property
    def gpu_resource(self) -> str:
        return SHARED_GPU if self.kit else "nvidia.com/gpu"

    def run_kit(self, *arguments: str) -> None:
        """Run a command of the kit on a node."""
        subprocess.run([self.kit, *arguments], check=True, capture_output=True, text=True)

    def nodes(self) -> dict[str, client.V1Node]:
        """Real nodes by name."""
        return {
            node.metadata.name: node
            for node in self.core.list_node().items
            if node.metadata.labels.get("type") != "fake"
        }

    def gpu_nodes(self) -> list[str]:
        return [name for name, node in self.nodes().items() if GPU_LABEL in node.metadata.labels]

    def cpu_nodes(self) -> list[str]:
        return [name for name, node in self.nodes().items() if GPU_LABEL not in node.metadata.labels]

    def is_ready(self, node: str) -> bool:
        found = self.nodes().get(node)
        if found is None:
            return False
        return any(one.type == "Ready" and one.status == "True" for one in found.status.conditions or [])

    def taint(self, node: str, *taints: dict[str, str]) -> None:
        """Set these taints on a node beside those of accelerators; without any, remove them."""
        known = [one.to_dict() for one in self.nodes()[node].spec.taints or []]
        kept = [one for one in known if one["key"] != OUT_OF_SERVICE["key"]]
        body = {"spec": {"taints": [{k: v for k, v in one.items() if v and k != "time_added"} for one in kept]}}
        body["spec"]["taints"] += list(taints)
        self.core.patch_node(node, body)

    def wait_for(self, condition: Callable[[], Any], timeout_s: float, what: str, namespace: str = "") -> Any:
        """Wait until a condition is true; return its value.

        Raises:
            AssertionError: Timed out; the message describes the namespace.
        """
        begun = time.monotonic()
        while not (found := condition()):
            if time.monotonic() > begun + timeout_s * PATIENCE:
                state = self.describe(namespace) if namespace else ""
                raise AssertionError(f"{what}: not within {timeout_s * PATIENCE:.0f} s\n{state}")
            time.sleep(POLL_S)
        report(f"{time.monotonic() - begun:5.1f} s  {what}", namespace)
        return found

    def describe(self, namespace: str) -> str:
        """Jobs, pods with the end of their logs, and events of a namespace."""
        lines = [f"--- {namespace}"]
        for job in self.batch.list_namespaced_job(namespace).items:
            reasons = [f"{one.type}: {one.reason} {one.message}" for one in job.status.conditions or []]
            lines.append(
                f"job {job.metadata.name}: active {job.status.active} done {job.status.completed_indexes} "
                f"failed {job.status.failed} suspend {job.spec.suspend} {reasons}"
            )
        for pod in self.core.list_namespaced_pod(namespace).items:
            lines.append(f"pod {pod.metadata.name} on {pod.spec.node_name}: {pod.status.phase} {ended(pod)}")
            lines += [f"    {line}" for line in self.log(pod).splitlines()[-8:]]
        for event in self.core.list_namespaced_event(namespace).items[-30:]:
            lines.append(f"event {event.involved_object.name}: {event.reason} {event.message}")
        return "\n".join(lines)

    def log(self, pod: Pod) -> str:
        try:
            name, namespace = pod.metadata.name, pod.metadata.namespace
            answer = self.core.read_namespaced_pod_log(name, namespace, tail_lines=200, _preload_content=False)
            return answer.data.decode(errors="replace")
        except ApiException as exc:
            return f"no log: {exc.status}"


def open_cluster() -> Cluster:
    """The cluster of the environment; `.ci/test-cluster` sets it."""
    config.load_kube_config()
    server = S3Server(
        os.environ["AWS_ENDPOINT_URL"],
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
    )
    image = os.environ["IMAGE"]
    return Cluster(
        core=client.CoreV1Api(),
        batch=client.BatchV1Api(),
        server=server,
        bucket=os.environ["S3_BUCKET"],
        image=image,
        other_image=os.environ.get("OTHER_IMAGE", image),
        kit=os.environ.get("CLUSTER_KIT", ""),
    )


def report(text: str, namespace: str = "") -> None:
    """Show a line while tests run; several processes share standard error."""
    sys.stderr.write(f"{namespace:46}{text}\n")


def ended(pod: Pod) -> str:
    """Exit code, reason and message of the pod's container, if it has terminated."""
    for status in pod.status.container_statuses or []:
        if status.state.terminated:
            end = status.state.terminated
            return f"{end.exit_code} {end.reason} {(end.message or '').strip()}"
    return ""


def exit_code(pod: Pod) -> int | None:
    for status in pod.status.container_statuses or []:
        if status.state.terminated:
            return int(status.state.terminated.exit_code)
    return None


def is_over(job: Job) -> bool:
    """Whether the Job is complete, or suspended by the janitor because the run has ended."""
    return bool(job.spec.suspend) or has_condition(job, "Complete")


def has_condition(job: Job, kind: str) -> bool:
    return any(one.type == kind and one.status == "True" for one in job.status.conditions or [])
