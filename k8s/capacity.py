"""Whether the pods of a release can ever run on a cluster: nodes, quotas and limits of the namespace.

A cluster with an autoscaler may get the nodes that it lacks, so these are warnings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

from job.errors import ConfigurationError
from k8s.api_objects import Job, LimitRange, Node, NodeTerm, PodSpec, Quota, Requirement, Taint, Toleration
from k8s.cluster import Cluster
from k8s.release import Release


def capacity_warnings(cluster: Cluster, release: Release) -> tuple[str, ...]:
    """What keeps pods of a release from running, one sentence each.

    Args:
        cluster: Cluster of the release.
        release: Rendered, not yet installed.

    Raises:
        ClusterError: The API server is unreachable.
    """
    jobs = {pool: job for pool, job in release.jobs.items() if job.spec.parallelism and not job.queue}
    found: list[str] = []
    try:
        nodes = cluster.nodes()
        for pool, job in jobs.items():
            found.extend(_unschedulable(pool, job.spec.template.spec, nodes))
    except ConfigurationError:
        found.append("this user may not list nodes: whether pods fit onto them was not checked")
    try:
        ranges = cluster.limit_ranges()
        for pool, job in jobs.items():
            found.extend(_beyond_limits(pool, job.spec.template.spec, ranges))
        found.extend(_beyond_quotas(jobs, cluster.quotas()))
    except ConfigurationError:
        found.append("this user may not list resourcequotas and limitranges: they were not checked")
    return tuple(found)


def _unschedulable(pool: str, pod: PodSpec, nodes: Sequence[Node]) -> Iterator[str]:
    """Why no node takes the pod; nothing if one does."""
    requests = requests_of(pod)
    reasons = [_refusal(pod, requests, node) for node in nodes]
    if "" in reasons:
        return
    counted = Counter(reasons).most_common()
    told = "; ".join(f"{count} {reason}" for reason, count in counted) or "the cluster has none"
    yield (
        f"no node takes a pod of pool {pool} ({len(nodes)} nodes: {told}): change pools.{pool}.resources, nodeSelector "
        f"or tolerations, disable the pool, or add such a node"
    )


def _refusal(pod: PodSpec, requests: Mapping[str, Decimal], node: Node) -> str:
    """Why a node refuses a pod, empty if it does not."""
    labels = node.metadata.labels
    for key, value in pod.node_selector.items():
        if labels.get(key) != value:
            return f"without label {key}={value}"
    affinity = pod.affinity.node_affinity if pod.affinity else None
    terms = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    if terms is not None and not any(_matches(term, labels) for term in terms.node_selector_terms):
        return "excluded by the affinity of the pool"
    for taint in node.spec.taints:
        if taint.effect != "PreferNoSchedule" and not any(_tolerates(one, taint) for one in pod.tolerations):
            return f"with taint {taint.key}, which the pool does not tolerate"
    for resource, wanted in requests.items():
        if wanted > _quantity(node.status.allocatable.get(resource, 0)):
            return f"with less than {_shown(resource, wanted)}"
    return ""


def _matches(term: NodeTerm, labels: Mapping[str, str]) -> bool:
    return bool(term.match_expressions) and all(_holds(one, labels) for one in term.match_expressions)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(requirement.key), requirement.values
    if requirement.operator in {"Exists", "DoesNotExist"}:
        return (value is not None) == (requirement.operator == "Exists")
    if requirement.operator in {"In", "NotIn"}:
        return (value in values) == (requirement.operator == "In")
    if value is None or not value.isdecimal() or not values:
        return False
    return int(value) > int(values[0]) if requirement.operator == "Gt" else int(value) < int(values[0])


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    is_effect = toleration.effect in {"", taint.effect}
    if not toleration.key:
        return is_effect and toleration.operator == "Exists"
    is_value = toleration.operator == "Exists" or toleration.value == taint.value
    return is_effect and is_value and toleration.key == taint.key


def requests_of(pod: PodSpec) -> dict[str, Decimal]:
    """Requests of all containers of a pod by resource; a limit stands for a missing request."""
    total: dict[str, Decimal] = {}
    for container in pod.containers:
        for resource, text in {**container.resources.limits, **container.resources.requests}.items():
            total[resource] = total.get(resource, Decimal(0)) + _quantity(text)
    return total


def _beyond_limits(pool: str, pod: PodSpec, ranges: Iterable[LimitRange]) -> Iterator[str]:
    requests = requests_of(pod)
    for one in ranges:
        for limits in one.spec.limits:
            if limits.type not in {"Container", "Pod"}:
                continue
            what = f"a {limits.type.lower()}"
            wanted = [(name, max(_limit(pod, name), requests.get(name, Decimal(0)))) for name in limits.max]
            high = [
                (f"at most {name} {limits.max[name]}", name, n) for name, n in wanted if n > _quantity(limits.max[name])
            ]
            asked = [(name, requests[name]) for name in limits.min if name in requests]
            low = [
                (f"at least {name} {limits.min[name]}", name, n) for name, n in asked if n < _quantity(limits.min[name])
            ]
            for bound, name, amount in high + low:
                yield (
                    f"LimitRange {one.metadata.name} allows {bound} {what}, a pod of pool {pool} asks for "
                    f"{_shown(name, amount)}: its pods will be refused"
                )


def _limit(pod: PodSpec, resource: str) -> Decimal:
    return sum((_quantity(one.resources.limits.get(resource, 0)) for one in pod.containers), Decimal(0))


def _beyond_quotas(jobs: Mapping[str, Job], quotas: Iterable[Quota]) -> Iterator[str]:
    """Quotas that have no room for all pods at a time."""
    for quota in quotas:
        for name, hard in quota.status.hard.items():
            needs = {pool: _of_quota(job.spec.template.spec, name) * job.spec.parallelism for pool, job in jobs.items()}
            wanted = sum(needs.values(), Decimal(0))
            free = _quantity(hard) - _quantity(quota.status.used.get(name, 0))
            if wanted > free:
                yield (
                    f"ResourceQuota {quota.metadata.name} has {_plain(free)} of {name} left, all pods at a time ask "
                    f"for {_plain(wanted)}: fewer will run"
                )


def _of_quota(pod: PodSpec, name: str) -> Decimal:
    """What one pod takes of a quota such as `requests.cpu`, `cpu`, `limits.memory` or `pods`."""
    if name in {"pods", "count/pods"}:
        return Decimal(1)
    kind, _, resource = name.partition(".")
    if kind == "limits":
        return _limit(pod, resource)
    return requests_of(pod).get(resource if kind == "requests" else name, Decimal(0))


def _quantity(text: str | float) -> Decimal:
    return Decimal(parse_quantity(text if isinstance(text, str) else str(text)))


def _shown(resource: str, amount: Decimal) -> str:
    return f"{resource} {_plain(amount)}"


def _plain(amount: Decimal) -> str:
    """`4Gi` of 4294967296, other numbers without an exponent."""
    for unit, size in (("Gi", 1 << 30), ("Mi", 1 << 20)):
        if amount >= size and amount % size == 0:
            return f"{int(amount) // size}{unit}"
    return f"{amount.normalize():f}"
