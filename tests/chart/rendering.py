"""Renders the chart by Helm's library without a cluster; values of the tests."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import helm_python
import yaml  # type: ignore[import-untyped]

CHART = Path(__file__).parents[2] / "charts" / "sam3-annotate"
Values = dict[str, Any]
Manifest = dict[str, Any]

POOLS = ("gpu", "cpu")
ON_S3: Values = {
    "input": {"url": "s3://pictures/in"},
    "output": {"url": "s3://pictures/out"},
    "s3": {"existingSecret": "s3-keys"},
}
ON_VOLUMES: Values = {
    "input": {"pvc": {"claimName": "pictures", "path": "2026"}},
    "output": {"pvc": {"claimName": "results"}},
    "pools": {pool: {"model": {"pvc": {"claimName": "models", "path": f"/{pool}/"}}} for pool in POOLS},
}
EXPORT: Values = {
    "export": {"enabled": True, "hubToken": {"existingSecret": "hub"}},
    "pools": {"gpu": {"enabled": False, "model": {"pvc": {"claimName": "models"}}}, "cpu": {"enabled": False}},
}
_STORAGE_RULE = {"to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}], "ports": [{"port": 443}]}
_MORE = {"name": "more", "namespace": "{{ .Release.Namespace }}", "labels": {}}
EVERYTHING: Values = {
    "commonLabels": {"team": "garage"},
    "commonAnnotations": {"team": "garage"},
    "run": {"name": "spring"},
    "input": {"url": "s3://pictures/in", "existingSecret": "input-options"},
    "output": {"pvc": {"claimName": "results"}, "existingSecret": "output-options"},
    "s3": {"endpoint": "https://s3.example", "region": "eu-1", "existingSecret": "keys", "ca": {"configMap": "ca"}},
    "selection": {
        "include": ["cen*/*"],
        "exclude": ["-old/*", "$(HOME)"],
        "limit": 1000,
        "inputList": {"url": "s3://pictures/list.csv", "column": "key"},
        "override": True,
        "overrideReviewed": True,
    },
    "annotation": {"prompts": ["car", "fire engine"], "date": "2026-01-31", "imageMode": "none", "instances": "none"},
    "checkpointDigest": "c" * 64,
    "image": {"pullSecrets": [{"name": "registry"}]},
    "pools": {
        "gpu": {
            "suspend": True,
            "batchSize": 4,
            "memoryBudget": "4G",
            "image": {"repository": "registry.example/gpu", "digest": "sha256:" + "a" * 64},
            "model": {"uri": "s3://models/fp16", "digest": "d" * 64},
            "nodeSelector": {"zone": "a"},
            "affinity": {"nodeAffinity": {}},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "priorityClassName": "batch",
            "runtimeClassName": "nvidia",
            "count": 2,
            "schedulerName": "volcano",
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "resourceClaims": [{"name": "nic", "resourceClaimTemplateName": "one-nic"}],
            "resources": {"claims": [{"name": "nic"}]},
            "env": [{"name": "B", "value": "c"}],
            "podLabels": {"cost": "gpu"},
            "podAnnotations": {"pool": "gpu"},
        },
        "cpu": {"image": {"tag": "mine"}, "model": {"image": {"reference": "registry.example/sam3:int8"}}},
    },
    "worker": {"shardSize": 500, "visualize": True, "logFormat": "text"},
    "job": {
        "ttlSecondsAfterFinished": 3600,
        "activeDeadlineSeconds": 7200,
        "labels": {"queue": "night"},
        "annotations": {"owner": "roads"},
    },
    "serviceAccount": {"annotations": {"cloud.example/identity": "annotator"}, "automountToken": True},
    "hostAliases": [{"ip": "10.0.0.5", "hostnames": ["s3.example"]}],
    "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
    "dnsPolicy": "ClusterFirst",
    "sidecars": [
        {
            "name": "tunnel",
            "image": "registry.example/tunnel:1",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
            "resources": {kind: {"cpu": "50m", "memory": "32Mi"} for kind in ("requests", "limits")},
        }
    ],
    "proxy": {"http": "http://proxy:3128", "https": "http://proxy:3128", "noProxy": ".svc"},
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [{"namespaceSelector": {}}],
        "egress": {"restricted": True, "storage": [_STORAGE_RULE], "apiServer": [_STORAGE_RULE]},
    },
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": _MORE}],
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podLabels": {"cost": "labels"},
    "podAnnotations": {"mesh.example/inject": "false"},
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraEnvFrom": [{"configMapRef": {"name": "settings"}}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
}
RELEASES = {"s3": ON_S3, "volumes": ON_VOLUMES, "everything": EVERYTHING, "export": EXPORT}


def merged(base: Values, *changes: Values) -> Values:
    """Values merged with changes, as Helm merges files of values."""
    result = copy.deepcopy(base)
    for change in changes:
        for key, value in change.items():
            nested = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if nested else copy.deepcopy(value)
    return result


def at(path: str, value: object) -> Values:
    """`at("a.b", 1)` is `{"a": {"b": 1}}`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


@dataclass(frozen=True)
class Release:
    """A rendered release.

    Attributes:
        manifests: All objects, including the test pod.
        notes: Text of NOTES.txt.
    """

    manifests: tuple[Manifest, ...]
    notes: str

    def of(self, kind: str, component: str | None = None) -> Iterator[Manifest]:
        """Objects of a kind and component."""
        for manifest in self.manifests:
            labels = manifest["metadata"]["labels"]
            if manifest["kind"] == kind and component in {None, labels.get("app.kubernetes.io/component")}:
                yield manifest

    def one(self, kind: str, component: str | None = None) -> Manifest:
        """The only object of a kind and component."""
        (manifest,) = self.of(kind, component)
        return manifest

    @property
    def jobs(self) -> dict[str, Manifest]:
        """Jobs of the pools, by pool."""
        return {job["metadata"]["labels"]["sam3-annotate/pool"]: job for job in self.of("Job", "worker")}

    @property
    def job_names(self) -> dict[str, str]:
        """Names of the pools' Jobs."""
        return {pool: job["metadata"]["name"] for pool, job in self.jobs.items()}

    @property
    def run(self) -> str:
        """Name of the run, equal in all pools."""
        (name,) = {job["metadata"]["labels"]["sam3-annotate/run"] for job in self.jobs.values()}
        assert isinstance(name, str)
        return name

    @property
    def pods(self) -> list[Manifest]:
        """All pods and pod templates."""
        return [job["spec"]["template"] for job in self.of("Job")] + list(self.of("Pod"))


@cache
def _chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def render(values: Values, name: str = "night", namespace: str = "garage") -> Release:
    """Render the chart.

    Raises:
        helm_python.HelmError: The values violate the schema or are inconsistent.
    """
    files = dict(_chart().render(values, name=name, namespace=namespace))
    notes = files.pop("sam3-annotate/templates/NOTES.txt")
    return Release(tuple(document for text in files.values() for document in _documents(text)), notes)


def render_names(values: Values, names: Sequence[str], namespace: str = "garage") -> list[Release]:
    """Releases of these names with the same values, by one call of Helm, which takes a third of the time; no notes."""
    given = merged(values, {"global": {"names": list(names)}})
    text = _chart_of_names().render(given, name="all", namespace=namespace)["sam3-annotate/templates/names.yaml"]
    return [Release(tuple(_documents(part)), "") for part in text.split(_NEXT_RELEASE)[1:]]


def _documents(text: str) -> list[Manifest]:
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


_NEXT_RELEASE = "# next release"
_RENDER_NAMES = """
{{- range $name := (default dict .Values.global).names }}
{{- $root := merge (dict "Release" (merge (dict "Name" $name) $.Release)) (omit $ "Release") }}
# next release
{{- range $file := FILES }}
---
{{ include (print $.Template.BasePath "/" $file) $root }}
{{- end }}
{{- end }}
"""


@cache
def _chart_of_names() -> helm_python.Chart:
    """The chart with one more template, which renders all others once for each of `global.names`."""
    with TemporaryDirectory() as folder:
        copied = Path(shutil.copytree(CHART, Path(folder) / CHART.name))
        templates = copied / "templates"
        files = " ".join(f'"{path.relative_to(templates)}"' for path in sorted(templates.rglob("*.yaml")))
        (templates / "names.yaml").write_text(_RENDER_NAMES.replace("FILES", f"list {files}"))
        return helm_python.Chart.load(copied)


def container(pod: Manifest) -> Manifest:
    """The only container of a pod."""
    (only,) = pod["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def arguments(job: Manifest) -> list[str]:
    """The arguments of a Job's container."""
    found = container(job["spec"]["template"])["args"]
    assert isinstance(found, list)
    return found


def flag(job: Manifest, name: str) -> list[str]:
    """The values of a flag in a Job's arguments."""
    return [text.partition("=")[2] for text in arguments(job) if text.partition("=")[0] == f"--{name}"]
