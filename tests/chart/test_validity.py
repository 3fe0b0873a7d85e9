"""Validity of the chart: API schemas, lint, PodSecurity, values schema and table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import helm_python
import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from charts.values_table import CHART as DOCUMENTED_CHART
from charts.values_table import documented_values, with_table
from job.cli.annotate import annotate
from job.cli.doctor import doctor
from k8s.cli.janitor import janitor
from tests.chart.rendering import (
    CHART,
    EVERYTHING,
    ON_S3,
    ON_VOLUMES,
    RELEASES,
    Manifest,
    Values,
    at,
    container,
    merged,
    render,
)

KUBERNETES = ("1.31", "1.32", "1.33", "1.34", "1.37")
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", RELEASES.values(), ids=RELEASES)
def test_every_object_fits_the_schema_of_the_api(values: Values, version: str) -> None:
    for manifest in render(values).manifests:
        # PodMonitor is a resource of the Prometheus operator.
        if manifest["kind"] != "PodMonitor":
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("values", [{}, *RELEASES.values()], ids=["defaults", *RELEASES])
def test_helm_lints_without_a_warning(values: Values) -> None:
    report = helm_python.lint(CHART, values, strict=True)

    assert (report["errors"], report["messages"]) == ([], [])


@pytest.mark.parametrize("values", RELEASES.values(), ids=RELEASES)
def test_every_pod_satisfies_the_restricted_standard(values: Values) -> None:
    for pod in render(values).pods:
        assert list(restricted_violations(pod["spec"])) == []
        for only in pod["spec"]["containers"]:
            assert only["securityContext"]["readOnlyRootFilesystem"] is True
            assert only["terminationMessagePolicy"] == "FallbackToLogsOnError"
            assert {"name": "SAM3_TERMINATION_LOG", "value": "/dev/termination-log"} in only["env"]


def restricted_violations(spec: Manifest) -> Iterator[str]:
    """Violations of the Pod Security Standard "restricted" in a pod."""
    pod = spec.get("securityContext", {})
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    yield from (f"sysctl {entry}" for entry in pod.get("sysctls", []))
    for volume in spec["volumes"]:
        if not set(volume) - {"name"} <= RESTRICTED_VOLUMES:
            yield f"volume {volume}"
    for only in spec["containers"] + spec.get("initContainers", []):
        context = {**pod, **only.get("securityContext", {})}
        if any("hostPort" in port for port in only.get("ports", [])):
            yield "hostPort"
        if context.get("privileged") or context.get("procMount", "Default") != "Default":
            yield "privileged"
        if context.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
            yield "root"
        if context.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
            yield "seccomp"
        capabilities = context.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield "capabilities"


@pytest.mark.parametrize("values", [ON_S3, ON_VOLUMES, EVERYTHING], ids=["s3", "volumes", "everything"])
def test_every_argument_is_a_flag_of_its_command(values: Values) -> None:
    commands: dict[str, click.Command] = {"annotate": annotate, "doctor": doctor, "janitor": janitor}
    called = [container(pod)["args"] for pod in render(values).pods]

    assert {name for name, *_ in called} == set(commands)
    for name, *flags in called:
        commands[name].make_context(name, [one.replace("$$(", "$(") for one in flags])


WRONG: dict[str, Any] = {
    "inputs": {},
    "input.urls": "s3://a/b",
    "input.url": "bucket/in",
    "pools.tpu": {},
    "pools.gpu.replicas": 3,
    "pools.cpu.allowCpu": True,
    "pools.gpu.parallelism": -1,
    "pools.gpu.completions": 100001,
    "pools.gpu.completions ": 0,
    "pools.gpu.image.digest": "sha256:1234",
    "pools.gpu.model.digest": "1234",
    "checkpointDigest": "1234",
    "run.name": "a b",
    "selection.limit": "many",
    "selection.missingJson": "maybe",
    "annotation.prompts": [],
    "annotation.confidenceThreshold": 1.5,
    "annotation.classes": "classes.yaml",
    "annotation.candidatesThreshold": "low",
    "annotation.maxCandidates": 0,
    "annotation.date": "tomorrow",
    "annotation.imageMode": "move",
    "annotation.instances": "all",
    "worker.failIfEmpty": "yes",
    "worker.selfCheck": "sometimes",
    "worker.logLevel": "LOUD",
    "worker.imageTimeoutSeconds": 0.5,
    "worker.imageTimeoutSeconds ": "0.9",
    "janitor.mode": True,
    "export.pool": "tpu",
    "metrics.port": 80,
    "tmp.sizeLimit": "much",
    "cache.hostPath": "relative",
    "cache.volume": {},
    "s3.accessKey": "secret",
    "pools.gpu.memoryBudget": "4Ti",
    "pools.gpu.topologySpreadConstraints": [{"maxSkew": 1}],
    "pools.gpu.resourceClaims": [{"resourceClaimName": "a"}],
    "pools.cpu.resources": {"claims": [{"name": "gpu"}]},
    "janitor.resources": {"claims": [{"name": "gpu"}]},
    "sidecars": [{"name": "a"}],
    "dnsPolicy": "Cluster",
    "networkPolicy.ingress": [],
}


@pytest.mark.parametrize("path", WRONG)
def test_the_schema_refuses(path: str) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        render(merged(ON_S3, at(path.strip(), WRONG[path])))


@pytest.mark.parametrize("prompts", [["car", "car"], ["car, van"], [" "], ["car", "passenger"]])
def test_prompts_that_the_worker_refuses_are_refused(prompts: list[str]) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        render(merged(ON_S3, at("annotation.prompts", prompts)))


def test_every_object_of_the_schema_is_closed_but_those_of_kubernetes() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def open_objects(node: object, path: str) -> Iterator[str]:
        if isinstance(node, dict):
            if "properties" in node and node.get("additionalProperties") is not False:
                yield path
            for key in node.keys() - {"if", "then"}:  # conditions, not descriptions
                yield from open_objects(node[key], f"{path}/{key}")

    assert list(open_objects(schema, "")) == []


def test_the_schema_has_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def missing(values: object, node: dict[str, Any], path: str) -> Iterator[str]:
        node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        if isinstance(values, dict) and "properties" in node:
            yield from (f"{path}.{key}" for key in set(values) ^ set(node["properties"]) - {"global", "claims"})
            for key in set(values) & set(node["properties"]):
                yield from missing(values[key], node["properties"][key], f"{path}.{key}")

    with helm_python.Chart.load(CHART) as chart:
        assert list(missing(chart.values, schema, "")) == []


def test_the_table_of_values_is_current() -> None:
    readme = (DOCUMENTED_CHART / "README.md").read_text(encoding="utf-8")
    values = list(documented_values((DOCUMENTED_CHART / "values.yaml").read_text(encoding="utf-8")))

    assert readme == with_table(readme, values), "run python charts/values_table.py"


def test_a_value_without_a_comment_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"a\.c: no comment"):
        list(documented_values("a:\n  # -- Says what it is,\n  # on two lines.\n  b: 1\n  c: 2\n"))


def test_comments_of_several_lines_and_pipes() -> None:
    (value,) = documented_values("a:\n  # -- Says what it is,\n  # `x|y`.\n  b: {c: [1]}\n")

    assert value.row == '| `a.b` | dict | `{"c": [1]}` | Says what it is, `x\\|y`. |'.replace("dict", "object")


def test_no_key_of_a_store_is_a_value_or_an_argument() -> None:
    text = json.dumps([manifest for values in RELEASES.values() for manifest in render(values).manifests])

    assert "SECRET_ACCESS_KEY" not in text
