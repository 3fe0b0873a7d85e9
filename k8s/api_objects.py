"""Objects of the Kubernetes API (1.31 to 1.34), with the fields that this package reads and no other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
POOL_LABEL = "sam3-annotate/pool"
RUN_LABEL = "sam3-annotate/run"
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Unknown fields are ignored, because the API gains fields."""


class Metadata(_Object, frozen=True):
    """Metadata of any object."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = {}
    creation_timestamp: datetime = datetime.fromtimestamp(0, UTC)
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None


class Condition(_Object, frozen=True):
    """A condition of a Job, a pod or a node."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class EnvVar(_Object, frozen=True):
    """An environment variable; `value` is empty for one with `valueFrom`."""

    name: str
    value: str = ""


class Resources(_Object, frozen=True):
    """Resources of a container, as quantities such as `500m` or `4Gi`."""

    requests: dict[str, str | int | float] = {}
    limits: dict[str, str | int | float] = {}


class Container(_Object, frozen=True):
    """A container of a pod."""

    name: str
    image: str = ""
    args: list[str] = []
    env: list[EnvVar] = []
    resources: Resources = Resources()


class Toleration(_Object, frozen=True):
    """A toleration of a pod; an empty key or effect stands for all."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class Requirement(_Object, frozen=True):
    """A requirement on a label of a node; `operator` is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: list[str] = []


class NodeTerm(_Object, frozen=True):
    """Requirements that must all hold."""

    match_expressions: list[Requirement] = []


class NodeTerms(_Object, frozen=True):
    """Terms of which one must hold."""

    node_selector_terms: list[NodeTerm] = []


class NodeAffinity(_Object, frozen=True):
    """What a node must have; preferences are not read."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = None


class Affinity(_Object, frozen=True):
    """Affinity of a pod; that to other pods is not read."""

    node_affinity: NodeAffinity | None = None


class PodSpec(_Object, frozen=True):
    """Spec of a pod, or of a Job's pod template."""

    containers: list[Container]
    node_name: str = ""
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    affinity: Affinity | None = None


class Template(_Object, frozen=True):
    """Pod template of a Job."""

    spec: PodSpec


class JobSpec(_Object, frozen=True):
    """Spec of an Indexed Job."""

    template: Template
    parallelism: int = 1
    completions: int = 1
    suspend: bool = False


class JobStatus(_Object, frozen=True):
    """Status of a Job; `completed_indexes` and `failed_indexes` are ranges, as in `0-3,7`."""

    active: int = 0
    ready: int = 0
    succeeded: int = 0
    failed: int = 0
    completed_indexes: str = ""
    failed_indexes: str = ""
    conditions: list[Condition] = []


class Job(_Object, frozen=True):
    """A Job of batch/v1."""

    metadata: Metadata
    spec: JobSpec
    status: JobStatus = JobStatus()

    @property
    def has_ended(self) -> bool:
        """Whether it starts no more pods."""
        return has_condition(self.status.conditions, "Complete") or has_condition(self.status.conditions, "Failed")

    @property
    def queue(self) -> str:
        """Its LocalQueue of Kueue, which then owns `suspend`; else empty."""
        return self.metadata.labels.get(QUEUE_LABEL, "")

    @property
    def lacks_pods(self) -> bool:
        """Whether fewer pods run than it asks for."""
        left = self.spec.completions - self.status.succeeded - count_of(self.status.failed_indexes)
        return not self.spec.suspend and not self.has_ended and self.status.active < min(self.spec.parallelism, left)


class Waiting(_Object, frozen=True):
    """Reason why a container has not started."""

    reason: str = ""
    message: str = ""


class Terminated(_Object, frozen=True):
    """How a container ended."""

    exit_code: int
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None


class ContainerState(_Object, frozen=True):
    """State of a container; both are None while it runs."""

    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Object, frozen=True):
    """Status of one container."""

    name: str
    state: ContainerState = ContainerState()


class PodStatus(_Object, frozen=True):
    """Status of a pod; `phase` is Pending, Running, Succeeded, Failed or Unknown."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    conditions: list[Condition] = []
    container_statuses: list[ContainerStatus] = []


class Pod(_Object, frozen=True):
    """v1."""

    metadata: Metadata
    spec: PodSpec
    status: PodStatus = PodStatus()

    @property
    def pool(self) -> str:
        """Name of its pool; empty for pods that are not workers."""
        return self.metadata.labels.get(POOL_LABEL, "")

    @property
    def index(self) -> int | None:
        """Its completion index; None for pods of Jobs without indexes."""
        text = self.metadata.labels.get(INDEX_LABEL)
        return None if text is None else int(text)

    @property
    def terminated(self) -> Terminated | None:
        """How its container ended, or None."""
        return next((one.state.terminated for one in self.status.container_statuses if one.state.terminated), None)

    @property
    def waiting(self) -> Waiting | None:
        """Why its container has not started, or None."""
        return next((one.state.waiting for one in self.status.container_statuses if one.state.waiting), None)


class Reference(_Object, frozen=True):
    """The object that an event is about."""

    kind: str = ""
    name: str = ""


class Event(_Object, frozen=True):
    """v1."""

    involved_object: Reference
    reason: str = ""
    message: str = ""
    type: str = "Normal"


class Taint(_Object, frozen=True):
    """A taint of a node; `effect` is NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(_Object, frozen=True):
    """Spec of a node."""

    taints: list[Taint] = []


class NodeStatus(_Object, frozen=True):
    """Status of a node; `allocatable` are quantities."""

    conditions: list[Condition] = []
    allocatable: dict[str, str] = {}


class Node(_Object, frozen=True):
    """v1."""

    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def is_ready(self) -> bool:
        """Whether its kubelet reports it as ready."""
        return has_condition(self.status.conditions, "Ready")


class QuotaStatus(_Object, frozen=True):
    """Limits of a ResourceQuota and what is used of them, as quantities."""

    hard: dict[str, str] = {}
    used: dict[str, str] = {}


class Quota(_Object, frozen=True):
    """ResourceQuota of v1."""

    metadata: Metadata
    status: QuotaStatus = QuotaStatus()


class Limits(_Object, frozen=True):
    """Limits of a LimitRange for one kind of object; `type` is Container, Pod or PersistentVolumeClaim."""

    type: str
    max: dict[str, str] = {}
    min: dict[str, str] = {}


class LimitRangeSpec(_Object, frozen=True):
    """Spec of a LimitRange."""

    limits: list[Limits] = []


class LimitRange(_Object, frozen=True):
    """v1."""

    metadata: Metadata
    spec: LimitRangeSpec = LimitRangeSpec()


def has_condition(conditions: Sequence[Condition], kind: str) -> bool:
    """Whether a condition of this type is true."""
    return any(one.type == kind and one.status == "True" for one in conditions)


def indexes_of(ranges: str) -> list[int]:
    """`0-3,7` to [0, 1, 2, 3, 7] (`.status.completedIndexes` of batch/v1)."""
    found: list[int] = []
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def count_of(ranges: str) -> int:
    """Number of indexes in `0-3,7`."""
    return len(indexes_of(ranges))
