"""Client of the Kubernetes API: reads and changes objects, and maps foreign errors to those of job.errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError
from yaml import YAMLError

from job.errors import ConfigurationError, InterruptedRunError
from job.storage.json_errors import JSON_ERRORS
from k8s.api_objects import Event, Job, LimitRange, Node, Pod, Quota

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Folder of a pod's service account."""
REQUEST_TIMEOUT_S = (10.0, 60.0)
"""To connect, and to read, in seconds."""
_PAGE = 500

_Item = TypeVar("_Item")


class ClusterError(InterruptedRunError):
    """The API server is unreachable or failed; rerunning the same command may succeed."""


class _List(msgspec.Struct):
    items: list[msgspec.Raw]
    metadata: dict[str, Any] = {}


_LIST = msgspec.json.Decoder(_List)
_JOB = msgspec.json.Decoder(Job)
_POD = msgspec.json.Decoder(Pod)
_NODE = msgspec.json.Decoder(Node)
_EVENT = msgspec.json.Decoder(Event)
_QUOTA = msgspec.json.Decoder(Quota)
_LIMIT_RANGE = msgspec.json.Decoder(LimitRange)


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, namespace: str | None = None, context: str | None = None) -> None:
        """Find the cluster as helm does: by kubeconfig, else by the service account of this pod.

        Args:
            namespace: Default: the namespace of the context.
            context: Context of the kubeconfig. Default: its current context.

        Raises:
            ConfigurationError: No cluster is configured.
        """
        default = _load(context)
        self.namespace = namespace or default
        self._core = client.CoreV1Api()
        self._batch = client.BatchV1Api()

    def jobs(self, selector: str) -> list[Job]:
        """Jobs with these labels."""
        return list(self._list(self._batch.list_namespaced_job, _JOB, "jobs", label_selector=selector))

    def job(self, name: str) -> Job | None:
        """One Job, or None when there is none."""
        with self._mapped("get jobs"):
            try:
                answer = self._batch.read_namespaced_job(
                    name, self.namespace, _preload_content=False, _request_timeout=REQUEST_TIMEOUT_S
                )
            except ApiException as exc:
                if exc.status == 404:
                    return None
                raise
            return _JOB.decode(answer.data)

    def suspend(self, name: str) -> None:
        """Suspend a Job; a Job that does not exist is no error."""
        with self._mapped("patch jobs"):
            try:
                self._batch.patch_namespaced_job(
                    name, self.namespace, {"spec": {"suspend": True}}, _request_timeout=REQUEST_TIMEOUT_S
                )
            except ApiException as exc:
                if exc.status != 404:
                    raise

    def pods(self, selector: str) -> Iterator[Pod]:
        """Pods with these labels, listed in pages."""
        return self._list(self._core.list_namespaced_pod, _POD, "pods", label_selector=selector)

    def warnings(self) -> Iterator[Event]:
        """Warnings about Jobs."""
        selector = "type=Warning,involvedObject.kind=Job"
        return self._list(self._core.list_namespaced_event, _EVENT, "events", field_selector=selector)

    def nodes(self) -> list[Node]:
        """All nodes."""
        return list(self._list(self._core.list_node, _NODE, "nodes", is_namespaced=False))

    def quotas(self) -> list[Quota]:
        """ResourceQuotas of the namespace."""
        return list(self._list(self._core.list_namespaced_resource_quota, _QUOTA, "resourcequotas"))

    def limit_ranges(self) -> list[LimitRange]:
        """LimitRanges of the namespace."""
        return list(self._list(self._core.list_namespaced_limit_range, _LIMIT_RANGE, "limitranges"))

    def node(self, name: str) -> Node | None:
        """A node, or None when there is none."""
        with self._mapped("get nodes"):
            try:
                answer = self._core.read_node(name, _preload_content=False, _request_timeout=REQUEST_TIMEOUT_S)
            except ApiException as exc:
                if exc.status == 404:
                    return None
                raise
            return _NODE.decode(answer.data)

    def log(self, pod: str, *, follow: bool, tail: int | None) -> Iterator[str]:
        """Lines of a pod's log as they arrive; none if the pod is gone or has not started."""
        timeout_s = (REQUEST_TIMEOUT_S[0], None) if follow else REQUEST_TIMEOUT_S
        with self._mapped("get pods/log"):
            try:
                answer = self._core.read_namespaced_pod_log(
                    pod,
                    self.namespace,
                    follow=follow,
                    tail_lines=tail,
                    _preload_content=False,
                    _request_timeout=timeout_s,
                )
            except ApiException as exc:
                if exc.status in {400, 404}:
                    return
                raise
            rest = b""
            for block in answer.stream(1 << 16):
                *lines, rest = (rest + block).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")

    def _list(
        self,
        call: Callable[..., Any],
        decoder: msgspec.json.Decoder[_Item],
        what: str,
        *,
        is_namespaced: bool = True,
        **selectors: str,
    ) -> Iterator[_Item]:
        after, where = "", (self.namespace,) if is_namespaced else ()
        while True:
            with self._mapped(f"list {what}"):
                answer = call(
                    *where,
                    limit=_PAGE,
                    _continue=after,
                    _preload_content=False,
                    _request_timeout=REQUEST_TIMEOUT_S,
                    **selectors,
                )
                page = _LIST.decode(answer.data)
                items = [decoder.decode(item) for item in page.items]
            yield from items
            after = page.metadata.get("continue", "")
            if not after:
                return

    @contextmanager
    def _mapped(self, permission: str) -> Iterator[None]:
        """Map foreign errors to ours."""
        try:
            yield
        except ApiException as exc:
            raise self._error(exc, permission) from exc
        except HTTPError as exc:
            raise ClusterError(
                f"the API server {_host()} is unreachable: {exc}. Retry, and check it with `kubectl version`"
            ) from exc
        except JSON_ERRORS as exc:
            raise ClusterError(
                f"{_host()} did not answer like an API server: {exc}. Check the connection with `kubectl version`"
            ) from exc

    def _error(self, exc: ApiException, permission: str) -> Exception:
        message = _message(exc)
        if exc.status in {401, 403}:
            return ConfigurationError(
                f"the cluster refuses to {permission} in namespace {self.namespace}: {message}. Log in, or ask for a "
                "Role that grants it"
            )
        return ClusterError(
            f"the API server failed to {permission} in namespace {self.namespace}: {message}. Retry later"
        )


def _load(context: str | None) -> str:
    """Load the configuration; return its namespace."""
    files = os.environ.get("KUBECONFIG") or None  # the package reads it when it is imported, once
    is_in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    home = Path(os.environ.get("HOME", "/")) / ".kube" / "config"
    try:
        if is_in_pod and files is None and context is None and not home.exists():
            config.load_incluster_config()
            return (SERVICE_ACCOUNT / "namespace").read_text().strip()
        config.load_kube_config(files, context)
        contexts, active = config.list_kube_config_contexts(files)
    except (ConfigException, OSError, YAMLError) as exc:
        raise ConfigurationError(f"no cluster is configured: {exc}. Set KUBECONFIG, or give --kube_context") from exc
    chosen = next((one for one in contexts if one["name"] == context), active)
    return str(chosen["context"].get("namespace") or "default")


def _host() -> str:
    return str(client.Configuration.get_default_copy().host)


def _message(exc: ApiException) -> str:
    try:
        return str(msgspec.json.decode(exc.body)["message"])
    except (*JSON_ERRORS, KeyError, TypeError):
        return f"{exc.status} {exc.reason}"
