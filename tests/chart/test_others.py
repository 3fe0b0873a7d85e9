"""Janitor, doctor, export, service accounts, PodMonitor, notes and refused values."""

from __future__ import annotations

import helm_python
import pytest

from tests.chart.rendering import (
    EVERYTHING,
    EXPORT,
    ON_S3,
    ON_VOLUMES,
    POOLS,
    Values,
    arguments,
    at,
    container,
    flag,
    merged,
    render,
)

GPU_ONLY, CPU_ONLY = at("pools.cpu.enabled", False), at("pools.gpu.enabled", False)


@pytest.mark.parametrize("pool", POOLS)
def test_one_pool_alone(pool: str) -> None:
    other = {"gpu": "cpu", "cpu": "gpu"}[pool]
    release = render(merged(ON_S3, at(f"pools.{other}.enabled", False)))

    assert set(release.jobs) == {pool}
    assert not list(release.of("Job", "janitor"))
    assert not list(release.of("Role"))


def test_pools_do_not_depend_on_each_other() -> None:
    both, alone = render(ON_S3), render(merged(ON_S3, GPU_ONLY))

    assert alone.jobs["gpu"] == both.jobs["gpu"]


def test_the_role_of_the_janitor_names_the_two_jobs() -> None:
    release = render(ON_S3)
    job, role, binding = (release.one(kind, "janitor") for kind in ("Job", "Role", "RoleBinding"))
    account = release.one("ServiceAccount", "janitor")
    names = list(release.job_names.values())

    assert role["rules"] == [
        {"apiGroups": ["batch"], "resources": ["jobs"], "resourceNames": names, "verbs": ["get", "patch"]}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [account["metadata"]["name"]]
    pod = job["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == (account["metadata"]["name"], True)
    assert arguments(job) == [
        "janitor",
        "--namespace=garage",
        *(f"--job={name}" for name in names),
        "--out_top_dir=s3://pictures/out",
        f"--run={release.run}",
        "--log_level=INFO",
        "--log_format=json",
    ]


def test_the_janitor_reads_the_output_where_it_is() -> None:
    job = render(EVERYTHING).one("Job", "janitor")

    assert flag(job, "out_top_dir") == ["/volumes/results"]
    assert flag(job, "output_storage_options") == ["/secrets/output/storage_options.json"]
    mounts = {mount["mountPath"]: mount.get("readOnly") for mount in container(job["spec"]["template"])["volumeMounts"]}
    assert mounts["/volumes/results"] is True


@pytest.mark.parametrize(
    ("values", "is_there"),
    [
        ({}, True),
        (GPU_ONLY, False),
        (merged(GPU_ONLY, at("janitor.mode", "always")), True),
        (at("janitor.mode", "never"), False),
        (at("kueue.queueName", "night-shift"), False),
    ],
    ids=["both pools", "one pool", "always", "never", "kueue"],
)
def test_when_a_janitor_is_created(values: Values, is_there: bool) -> None:
    assert bool(list(render(merged(ON_S3, values)).of("Job", "janitor"))) is is_there


def test_a_janitor_with_a_service_account_from_elsewhere() -> None:
    mine = at("janitor.serviceAccount", {"create": False, "name": "mine"})
    release = render(merged(ON_S3, mine))

    assert release.one("Job", "janitor")["spec"]["template"]["spec"]["serviceAccountName"] == "mine"
    assert not list(release.of("Role"))


def test_other_jobs_get_another_janitor() -> None:
    before = render(ON_S3).one("Job", "janitor")["metadata"]["name"]

    scaled = render(merged(ON_S3, at("pools.gpu.parallelism", 5))).one("Job", "janitor")["metadata"]["name"]
    replaced = render(merged(ON_S3, at("image.tag", "2"))).one("Job", "janitor")["metadata"]["name"]
    assert scaled == before
    assert replaced != before


@pytest.mark.parametrize(
    ("values", "pool"),
    [({}, "cpu"), (GPU_ONLY, "gpu"), (CPU_ONLY, "cpu"), (at("doctor.pool", "gpu"), "gpu")],
    ids=["both", "gpu only", "cpu only", "chosen"],
)
def test_the_doctor_is_scheduled_like_its_pool(values: Values, pool: str) -> None:
    release = render(merged(ON_S3, values))
    doctor, worker = release.one("Pod", "doctor"), release.jobs[pool]["spec"]["template"]

    assert doctor["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert container(doctor)["args"][0] == "doctor"
    assert set(container(doctor)["args"][1:]) <= set(container(worker)["args"])
    for key in set(worker["spec"]) - {"containers"}:
        assert doctor["spec"][key] == worker["spec"][key]
    for key in ("image", "resources", "securityContext", "volumeMounts"):
        assert container(doctor)[key] == container(worker)[key]


def test_an_export_runs_where_its_pool_runs() -> None:
    release = render(EXPORT)
    job = release.one("Job", "export")
    pod = job["spec"]["template"]

    assert [manifest["kind"] for manifest in release.manifests if manifest["kind"] != "ServiceAccount"] == ["Job"]
    assert arguments(job) == [
        "export", "--checkpoint=hub", "--out=/volumes/models", "--format=onnx", "--precision=fp16", "--device=cuda",
    ]  # fmt: skip
    assert container(pod)["image"].endswith("-export")
    assert container(pod)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["spec"]["tolerations"]
    secret = {"secretName": "hub", "items": [{"key": "token", "path": "token"}], "defaultMode": 0o440}
    assert {"name": "hub-token", "secret": secret} in pod["spec"]["volumes"]
    assert {"name": "hub-token", "mountPath": "/secrets/hub", "readOnly": True} in container(pod)["volumeMounts"]
    assert {"name": "HF_TOKEN_PATH", "value": "/secrets/hub/token"} in container(pod)["env"]
    assert {"name": container(pod)["volumeMounts"][2]["name"], "mountPath": "/volumes/models"} in container(pod)[
        "volumeMounts"
    ]


def test_an_export_for_the_cpu_from_a_volume() -> None:
    of_cpu = {
        "export": {"pool": "cpu", "precision": "int8", "checkpoint": {"pvc": {"claimName": "weights"}}},
        "pools": {"cpu": {"model": {"uri": "s3://models/int8"}}},
    }
    job = render(merged(EXPORT, of_cpu)).one("Job", "export")

    assert flag(job, "checkpoint") == ["/volumes/weights/sam3.pt"]
    assert flag(job, "out") == ["s3://models/int8"]
    assert flag(job, "device") == ["cpu"]
    assert "nvidia.com/gpu" not in container(job["spec"]["template"])["resources"]["limits"]


@pytest.mark.parametrize(
    ("values", "precision"),
    [
        pytest.param({}, "fp16", id="on a GPU"),
        pytest.param(at("export.pool", "cpu"), "fp32", id="on a CPU"),
        pytest.param(at("pools.gpu.allowCpu", True), "fp32", id="gpu pool without GPUs"),
        pytest.param(at("export.precision", "fp32"), "fp32", id="chosen"),
        pytest.param({"export": {"pool": "cpu", "precision": "bf16"}}, "bf16", id="bf16"),
    ],
)
def test_an_export_has_the_precision_of_its_device(values: Values, precision: str) -> None:
    on_both = {"pools": {"cpu": {"model": {"uri": "s3://models/fp32"}}}}
    assert flag(render(merged(EXPORT, on_both, values)).one("Job", "export"), "precision") == [precision]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "night-sam3-annotate"),
        ({"name": "mine"}, "mine"),
        ({"create": False}, "default"),
        ({"create": False, "name": "mine"}, "mine"),
    ],
    ids=["default", "named", "none", "from elsewhere"],
)
def test_service_account_of_workers(values: Values, name: str) -> None:
    release = render(merged(ON_S3, at("serviceAccount", values)))
    accounts = [account for account in release.of("ServiceAccount") if "component" not in str(account["metadata"])]

    assert [account["metadata"]["name"] for account in accounts] == ([name] if values.get("create", True) else [])
    for job in release.jobs.values():
        assert job["spec"]["template"]["spec"]["serviceAccountName"] == name
        assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_a_pod_monitor_is_optional() -> None:
    assert not list(render(ON_S3).of("PodMonitor"))
    monitor = render(EVERYTHING).one("PodMonitor")
    worker = render(EVERYTHING).jobs["gpu"]["spec"]["template"]

    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "30s"}]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= worker["metadata"]["labels"].items()


def test_notes_name_the_commands_to_watch_scale_and_repeat() -> None:
    release = render(ON_S3)

    for expected in (release.run, *release.job_names.values(), "--set run.name=night-2", "helm test night -n garage"):
        assert expected in release.notes
    assert "--set pools.gpu.parallelism=8" in release.notes
    assert release.notes.count("demo model") == 2
    assert "allowCpu" not in release.notes


@pytest.mark.parametrize(
    ("name", "following"), [("night-2", "night-3"), ("night-09", "night-09-2"), ("2026w48", "2026w48-2")]
)
def test_notes_number_the_next_pass(name: str, following: str) -> None:
    assert f"--set run.name={following}\n" in render(merged(ON_S3, {"run": {"name": name}})).notes


@pytest.mark.parametrize(
    ("values", "text", "is_there"),
    [
        (merged(ON_VOLUMES, at("pools.gpu.allowCpu", True)), "allowCpu is for tests", True),
        (ON_VOLUMES, "demo model", False),
        (merged(ON_S3, at("kueue.queueName", "q")), "suspend=true", False),
        (merged(ON_S3, at("pools.gpu.suspend", True)), "SUSPENDED", True),
        (EXPORT, "The model is being exported", True),
    ],
    ids=["allowCpu", "own models", "kueue", "suspended", "export"],
)
def test_notes_fit_the_values(values: Values, text: str, is_there: bool) -> None:
    assert (text in render(values).notes) is is_there


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give input.url or input.pvc.claimName"),
        (merged(ON_S3, at("output.pvc.claimName", "results")), "output: has a url and a pvc"),
        (merged(ON_S3, at("pools.gpu.parallelism", 9)), "9 pods at a time for 8 indexes"),
        (merged(ON_S3, at("kueue.queueName", "q"), at("pools.gpu.suspend", True)), "Kueue owns that field"),
        (merged(ON_S3, at("kueue.queueName", "q"), at("janitor.mode", "always")), "a janitor sets; leave it at auto"),
        (merged(ON_VOLUMES, at("pools.gpu.model.uri", "s3://a/b")), "has more than one of uri, pvc"),
        (merged(ON_S3, at("selection.inputList.column", "key")), "has a column and no url"),
        (merged(ON_S3, at("s3.ca", {"configMap": "a", "secret": "b"})), "has a configMap and a secret"),
        (merged(ON_S3, at("cache", {"hostPath": "/c", "pvc": {"claimName": "c"}})), "cache: has a hostPath and a pvc"),
        (merged(ON_S3, GPU_ONLY, CPU_ONLY), "both are disabled"),
        (merged(EXPORT, at("pools.gpu.enabled", True)), "the pools would start before the model exists"),
        (merged(EXPORT, at("pools.gpu.model.pvc.claimName", "")), "no location for the model"),
    ],
)
def test_inconsistent_values_are_refused(values: Values, message: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=message):
        render(values)
