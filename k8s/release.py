"""A release of the chart: the Jobs of its pools, and the arguments of their pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from job.errors import UsageError
from k8s.api_objects import COMPONENT_LABEL, INSTANCE_LABEL, POOL_LABEL, Job
from k8s.cluster import Cluster

_STORAGE_VARIABLES = {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"}


@dataclass(frozen=True)
class Release:
    """A release.

    Attributes:
        name: Name of the release.
        namespace: Namespace of the release.
        jobs: Jobs by pool.
    """

    name: str
    namespace: str
    jobs: Mapping[str, Job]

    @property
    def run(self) -> str:
        """Name of the run."""
        return self._argument("run")

    @property
    def output_url(self) -> str:
        """Folder of the results: a URL, or a path in a volume."""
        return self._argument("out_top_dir")

    @property
    def input_url(self) -> str:
        """Folder of the inputs: a URL, or a path in a volume."""
        return self._argument("input_top_dir")

    @property
    def has_output_on_volume(self) -> bool:
        """Whether only pods can read the results."""
        return self.output_url.startswith("/")

    @property
    def fails_if_empty(self) -> bool:
        """Whether an input without a JSON file is an error."""
        return "--fail_if_empty" in self.arguments

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the workers with endpoint and region of their storage; no secrets."""
        container = self._any_job.spec.template.spec.containers[0]
        return {one.name: one.value for one in container.env if one.value and one.name in _STORAGE_VARIABLES}

    @property
    def arguments(self) -> list[str]:
        """Flags of `sam3-annotate annotate` in the pods of one pool; Kubernetes reads `$$(` as `$(`."""
        return [one.replace("$$(", "$(") for one in self._any_job.spec.template.spec.containers[0].args[1:]]

    @property
    def _any_job(self) -> Job:
        return next(iter(self.jobs.values()))

    def _argument(self, flag: str) -> str:
        prefix = f"--{flag}="
        return next((one for one in self.arguments if one.startswith(prefix)), prefix).removeprefix(prefix)


def labels_of(release: str, component: str = "worker", *more: str) -> str:
    """Label selector of a release's objects."""
    return ",".join((f"{INSTANCE_LABEL}={release}", f"{COMPONENT_LABEL}={component}", *more))


def find_release(cluster: Cluster, name: str) -> Release:
    """Find a release by name.

    Raises:
        UsageError: It has no Jobs in this namespace.
    """
    jobs = _newest_by_pool(cluster.jobs(labels_of(name)))
    if not jobs:
        raise UsageError(
            f"namespace {cluster.namespace} has no Jobs of a release {name}: give its name and namespace (-n), "
            "as `helm list --all-namespaces` shows them"
        )
    return Release(name, cluster.namespace, jobs)


def _newest_by_pool(jobs: Sequence[Job]) -> dict[str, Job]:
    """The newest Job of each pool; during an upgrade a pool briefly has two."""
    oldest_first = sorted(jobs, key=lambda job: job.metadata.creation_timestamp)
    return {job.metadata.labels.get(POOL_LABEL, ""): job for job in oldest_first}
