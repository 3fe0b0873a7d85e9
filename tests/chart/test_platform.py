"""Values that platform teams set: scheduling, companions, networks, devices, metadata."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.chart.rendering import EXPORT, ON_S3, ON_VOLUMES, Manifest, Values, at, container, flag, merged, render
from tests.chart.rendering import render_names as rendered

SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
CLAIM = {"name": "gpu", "resourceClaimTemplateName": "one-gpu"}
HOSTS = [{"ip": "10.0.0.5", "hostnames": ["s3"]}]
SIDECAR = {"name": "proxy", "image": "proxy:1"}
FETCH = {"name": "fetch", "image": "fetch:1"}
STORAGE_RULE = {"to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}], "ports": [{"port": 443}]}
API_RULE = {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"port": 6443}]}

POD_FIELDS: dict[str, tuple[Any, str, Any]] = {
    "pools.cpu.schedulerName": ("volcano", "schedulerName", "volcano"),
    "pools.cpu.resourceClaims": ([CLAIM], "resourceClaims", [CLAIM]),
    "hostAliases": (
        [{"ip": "10.0.0.5", "hostnames": ["s3"]}],
        "hostAliases",
        [{"ip": "10.0.0.5", "hostnames": ["s3"]}],
    ),
    "dnsPolicy": ("None", "dnsPolicy", "None"),
    "dnsConfig": ({"nameservers": ["10.0.0.10"]}, "dnsConfig", {"nameservers": ["10.0.0.10"]}),
    "initContainers": ([FETCH], "initContainers", [FETCH]),
    "sidecars": ([SIDECAR], "initContainers", [{**SIDECAR, "restartPolicy": "Always"}]),
    "serviceAccount.automountToken": (True, "automountServiceAccountToken", True),
}


@pytest.mark.parametrize("path", POD_FIELDS)
def test_a_value_becomes_a_field_of_the_pods(path: str) -> None:
    value, field, expected = POD_FIELDS[path]

    assert _pod("cpu", at(path, value))["spec"][field] == expected
    assert _pod("cpu", {})["spec"].get(field) in (None, False)


@pytest.mark.parametrize("values", [ON_S3, EXPORT], ids=["pools", "export"])
def test_hosts_and_dns_are_those_of_every_pod(values: Values) -> None:
    pods = render(merged(values, at("hostAliases", HOSTS))).pods

    assert pods
    assert all(pod["spec"]["hostAliases"] == HOSTS for pod in pods)


def test_a_spread_constraint_selects_the_pods_of_its_pool() -> None:
    own = {"matchLabels": {"a": "b"}}
    constraints = [SPREAD, {**SPREAD, "labelSelector": own}]
    release = render(merged(ON_S3, at("pools.gpu.topologySpreadConstraints", constraints)))
    pod = release.jobs["gpu"]["spec"]["template"]
    first, second = pod["spec"]["topologySpreadConstraints"]

    assert first["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert first["labelSelector"]["matchLabels"]["sam3-annotate/pool"] == "gpu"
    assert second["labelSelector"] == own
    assert "topologySpreadConstraints" not in release.jobs["cpu"]["spec"]["template"]["spec"]


def test_the_values_of_a_pool_take_precedence_over_those_of_all_pods() -> None:
    of_all = {"podLabels": {"a": "all", "b": "all"}, "podAnnotations": {"a": "all"}, "extraEnv": [_env("A", "all")]}
    of_cpu = {"podLabels": {"a": "cpu"}, "podAnnotations": {"a": "cpu"}, "env": [_env("B", "cpu")]}
    release = render(merged(ON_S3, of_all, at("pools.cpu", of_cpu)))
    cpu, gpu = (release.jobs[pool]["spec"]["template"] for pool in ("cpu", "gpu"))

    assert {"a": "cpu", "b": "all"}.items() <= cpu["metadata"]["labels"].items()
    assert {"a": "all", "b": "all"}.items() <= gpu["metadata"]["labels"].items()
    assert (cpu["metadata"]["annotations"], gpu["metadata"]["annotations"]) == ({"a": "cpu"}, {"a": "all"})
    assert container(cpu)["env"][-2:] == [_env("B", "cpu"), _env("A", "all")]
    assert _env("B", "cpu") not in container(gpu)["env"]


def test_proxies_are_variables_of_every_pod() -> None:
    given = {"http": "http://proxy:3128", "https": "http://proxy:3129", "noProxy": ".svc,10.0.0.0/8"}
    expected = {"HTTP_PROXY": given["http"], "HTTPS_PROXY": given["https"], "NO_PROXY": given["noProxy"]}

    for pod in render(merged(ON_S3, at("proxy", given))).pods:
        assert expected.items() <= {one["name"]: one.get("value") for one in container(pod)["env"]}.items()


def test_labels_and_annotations_of_objects() -> None:
    values = {
        "commonAnnotations": {"team": "garage"},
        "job": {"labels": {"queue": "night"}, "annotations": {"team": "roads"}, "activeDeadlineSeconds": 7200},
        "podMonitor": {"enabled": True},
        "networkPolicy": {"enabled": True},
    }
    release = render(merged(ON_S3, values))

    for manifest in release.manifests:
        expected = "roads" if manifest in release.jobs.values() else "garage"
        assert manifest["metadata"]["annotations"]["team"] == expected
    for job in release.jobs.values():
        assert job["metadata"]["labels"]["queue"] == "night"
        assert job["spec"]["activeDeadlineSeconds"] == 7200


@pytest.mark.parametrize(("count", "workers"), [(1, []), (4, ["4"])])
def test_each_accelerator_of_a_pod_has_a_worker(count: int, workers: list[str]) -> None:
    job = render(merged(ON_S3, at("pools.gpu.count", count))).jobs["gpu"]

    assert container(job["spec"]["template"])["resources"]["limits"]["nvidia.com/gpu"] == count
    assert flag(job, "workers") == workers


def test_devices_may_come_by_claims_alone() -> None:
    pool = {"count": 0, "resourceClaims": [CLAIM], "resources": {"claims": [{"name": "gpu"}]}}
    spec = _pod("gpu", at("pools.gpu", pool))["spec"]

    assert container({"spec": spec})["resources"]["claims"] == [{"name": "gpu"}]
    assert "nvidia.com/gpu" not in container({"spec": spec})["resources"]["limits"]
    assert spec["resourceClaims"] == [CLAIM]


def test_a_model_in_an_image_is_a_volume() -> None:
    image = {"reference": "registry.example/sam3:fp16", "path": "/fp16/"}
    release = render(merged(ON_S3, at("pools.gpu.model.image", image)))
    spec = release.jobs["gpu"]["spec"]["template"]["spec"]

    assert {"name": "model", "image": {"reference": image["reference"], "pullPolicy": "IfNotPresent"}} in spec[
        "volumes"
    ]
    assert {"name": "model", "mountPath": "/model", "readOnly": True} in spec["containers"][0]["volumeMounts"]
    assert (flag(release.jobs["gpu"], "model"), flag(release.jobs["cpu"], "model")) == (["/model/fp16"], [])


def test_a_network_policy_admits_only_monitoring() -> None:
    monitoring = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
    values = {"enabled": True, "metricsFrom": [monitoring]}
    closed = render(merged(ON_S3, at("networkPolicy.enabled", True))).one("NetworkPolicy")["spec"]
    opened = render(merged(ON_S3, at("networkPolicy", values))).one("NetworkPolicy")["spec"]

    assert (closed["policyTypes"], closed["ingress"]) == (["Ingress"], [])
    assert opened["ingress"] == [{"from": [monitoring], "ports": [{"protocol": "TCP", "port": 9400}]}]
    assert not list(render(ON_S3).of("NetworkPolicy"))


def test_restricted_pods_reach_dns_and_storage_and_the_janitor_its_api() -> None:
    egress = {"restricted": True, "storage": [STORAGE_RULE], "apiServer": [API_RULE]}
    release = render(merged(ON_S3, at("networkPolicy", {"enabled": True, "egress": egress})))
    everybody, janitor = (policy["spec"] for policy in release.of("NetworkPolicy"))

    assert everybody["policyTypes"] == ["Ingress", "Egress"]
    assert everybody["egress"][0] == {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    assert everybody["egress"][1:] == [STORAGE_RULE]
    assert janitor["egress"] == [API_RULE]
    for pod in release.pods:
        labels = pod["metadata"]["labels"].items()
        assert everybody["podSelector"]["matchLabels"].items() <= labels
        is_janitor = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "janitor"
        assert (janitor["podSelector"]["matchLabels"].items() <= labels) == is_janitor


def test_more_objects_are_mappings_or_templates() -> None:
    mapping = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain", "labels": {}}}
    text = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "{{ .Release.Name }}-more", labels: {}}'
    names = [
        one["metadata"]["name"] for one in render(merged(ON_S3, at("extraObjects", [mapping, text]))).of("ConfigMap")
    ]

    assert names == ["plain", "night-more"]


def test_pods_read_the_keys_of_s3_as_files_that_follow_the_secret() -> None:
    for pod in render(ON_S3).pods:
        only, secret = container(pod), {"secretName": "s3-keys", "defaultMode": 0o440}
        assert {"name": "s3-keys", "secret": secret} in pod["spec"]["volumes"]
        assert {"name": "s3-keys", "mountPath": "/secrets/s3", "readOnly": True} in only["volumeMounts"]
        assert {"name": "SAM3_S3_CREDENTIALS", "value": "/secrets/s3"} in only["env"]
        assert "envFrom" not in only, "no keys in the environment"
    without = render(merged(ON_S3, at("s3.existingSecret", ""))).jobs["cpu"]["spec"]["template"]
    assert "SAM3_S3_CREDENTIALS" not in {one["name"] for one in container(without)["env"]}


def test_a_worker_knows_how_many_pods_of_its_index_have_failed() -> None:
    path = "metadata.annotations['batch.kubernetes.io/job-index-failure-count']"
    for job in render(ON_S3).jobs.values():
        source = {"fieldRef": {"fieldPath": path}}
        assert {"name": "SAM3_INDEX_FAILURES", "valueFrom": source} in container(job["spec"]["template"])["env"]


def test_no_exit_code_ends_the_janitor_for_good() -> None:
    spec = render(ON_S3).one("Job", "janitor")["spec"]

    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore"]
    assert spec["backoffLimit"] >= 100_000


REFUSED: dict[str, tuple[Values, str]] = {
    "claims without resourceClaims": (at("pools.gpu.resources", {"claims": [{"name": "gpu"}]}), "resourceClaims"),
    "another claim": (
        at("pools.gpu", {"resources": {"claims": [{"name": "b"}]}, "resourceClaims": [CLAIM]}), "names b, which is not",
    ),
    "no accelerator": (at("pools.gpu.count", 0), "count is 0 and resourceClaims is empty"),
    "two models": (
        at("pools.cpu.model", {"uri": "s3://a/b", "image": {"reference": "a:1"}}), "has more than one of",
    ),
    "no way to the storage": (
        at("networkPolicy", {"enabled": True, "egress": {"restricted": True}}), "restricted without storage",
    ),
    "no way to the API": (
        at("networkPolicy", {"enabled": True, "egress": {"restricted": True, "storage": [STORAGE_RULE]}}),
        "restricted without apiServer",
    ),
    "export into an image": (
        merged(EXPORT, at("pools.gpu.model", {"pvc": {"claimName": ""}, "image": {"reference": "a:1"}})),
        "is read-only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_values_are_refused(case: str) -> None:
    values, message = REFUSED[case]

    with pytest.raises(helm_python.HelmError, match=message):
        render(values if "export" in values else merged(ON_S3, values))


# Pairs of names that a rule for names could confuse: long ones with one beginning, and one that ends like the chart.
BEGINNINGS = st.from_regex(r"[a-z][-a-z0-9]{0,44}[a-z0-9]", fullmatch=True)
ENDINGS = st.sampled_from(["", "a", "b", "-a", ".a", "-sam3-annotate", "-gpu", "-janitor", ".sam3", "-sam3"])


@st.composite
def similar_names(draw: st.DrawFn) -> list[str]:
    beginning = draw(BEGINNINGS)
    names = {(beginning + suffix)[:53].strip("-.") for suffix in draw(st.sets(ENDINGS, min_size=2))}
    return sorted(names | {name.replace(".", "-") for name in names})


# Without shrinking, which takes minutes: the example is as small as it gets.
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(names=similar_names())
@pytest.mark.parametrize("values", [ON_S3, ON_VOLUMES], ids=["s3", "volumes"])
def test_no_two_releases_have_an_object_in_common(values: Values, names: list[str]) -> None:
    found: dict[tuple[str, str], str] = {}
    more = {"networkPolicy": {"enabled": True}, "podMonitor": {"enabled": True}}

    for name, release in zip(names, rendered(merged(values, more), names), strict=True):
        for manifest in release.manifests:
            key = (manifest["kind"], manifest["metadata"]["name"])
            assert found.setdefault(key, name) == name


@pytest.mark.parametrize("kind", ["Pod", "ServiceAccount", "Job"])
def test_releases_that_share_37_characters_share_no_name(kind: str) -> None:
    names = ["nightly-annotation-of-garage-cameras-" + end for end in ("north", "south")]
    north, south = (
        {manifest["metadata"]["name"] for manifest in release.of(kind)} for release in rendered(ON_S3, names)
    )

    assert north
    assert not north & south


def _pod(pool: str, values: Values) -> Manifest:
    template: Manifest = render(merged(ON_S3, values)).jobs[pool]["spec"]["template"]
    return template


def _env(name: str, value: str) -> Manifest:
    return {"name": name, "value": value}
