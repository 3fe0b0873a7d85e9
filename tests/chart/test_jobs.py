"""Job specs and arguments of the workers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from job.tools.bench.turns import TurnsReport
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


def test_a_file_of_classes_takes_the_place_of_prompts_and_candidates_are_stored() -> None:
    values = {"classes": "/volumes/data/my.yaml", "candidatesThreshold": 0.1, "maxCandidates": 7}
    flags = arguments(render(merged(ON_S3, {"annotation": values})).jobs["gpu"])
    assert not [one for one in flags if one.startswith("--prompts")]
    assert {"--classes=/volumes/data/my.yaml", "--candidates_threshold=0.1", "--max_candidates=7"} <= set(flags)


@pytest.mark.parametrize("pool", POOLS)
def test_an_index_is_retried_except_after_permanent_errors(pool: str) -> None:
    spec = render(merged(ON_S3, at(f"pools.{pool}.completions", 40))).jobs[pool]["spec"]

    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 40, 2)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (20, 39)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "annotate", "operator": "In", "values": [2, 78]}},
        {"action": "FailIndex", "onExitCodes": {"containerName": "annotate", "operator": "In", "values": [65]}},
    ]
    assert container(spec["template"])["name"] == "annotate"


def test_arguments_of_both_pools_with_defaults() -> None:
    release = render(ON_S3)
    common = [
        "annotate",
        "--input_top_dir=s3://pictures/in",
        "--out_top_dir=s3://pictures/out",
        f"--run={release.run}",
        "--supersede",
        "--prompts=car,license plate,person",
        "--confidence_threshold=0.4",
        "--image_mode=copy",
        "--instances=table",
        "--max_image_pixels=100000000",
    ]
    runtime = [
        "--journal_interval_s=30",
        "--image_timeout_s=600",
        "--max_failed_fraction=0.05",
        "--fail_if_empty",
        "--self_check=cached",
        "--metrics_port=9400",
        "--log_level=INFO",
        "--log_format=json",
    ]
    cache = "--model_cache=/cache/models"

    gpu = ["--pool=gpu", "--order=forward", "--device=cuda", cache, "--device_retry_s=600"]
    cpu = ["--pool=cpu", "--order=backward", "--device=cpu", cache]
    assert arguments(release.jobs["gpu"]) == [*common, *gpu, *runtime]
    assert arguments(release.jobs["cpu"]) == [*common, *cpu, *runtime]


@pytest.mark.parametrize("pool", POOLS)
def test_an_empty_input_is_accepted_if_configured(pool: str) -> None:
    job = render(merged(ON_S3, at("worker.failIfEmpty", False))).jobs[pool]

    assert "--fail_if_empty" not in arguments(job)


@pytest.mark.parametrize(
    ("value", "expected"), [("always", "always"), ("off", "off"), (False, "off")], ids=["always", "off", "YAML's off"]
)
def test_self_check(value: object, expected: str) -> None:
    for job in render(merged(ON_S3, at("worker.selfCheck", value))).jobs.values():
        assert flag(job, "self_check") == [expected]


MEASURED = Path(__file__).parents[2] / "docs" / "measurements" / "xeon-amx-random-weights.turns.json"
IMAGES_BYTES = 3 << 29
"""For decoded images, and for what a process takes besides the model."""


def test_the_cpu_pool_holds_the_official_model_with_its_defaults() -> None:
    job = render(ON_S3).jobs["cpu"]
    resources = container(job["spec"]["template"])["resources"]
    limit = int(resources["limits"]["memory"].removesuffix("Gi")) << 30

    assert resources["requests"] == resources["limits"]
    assert not flag(job, "batch_size")  # a worker has two images in flight only where a second one fits
    peaks = {x.precision: x.peak_all_bytes for x in msgspec.json.decode(MEASURED.read_bytes(), type=TurnsReport).models}
    assert limit > max(peaks.values()) + IMAGES_BYTES


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({}, [], id="the worker's choice"),
        pytest.param(at("pools.cpu.runtime", "auto"), [], id="the same by name"),
        pytest.param(at("pools.cpu.runtime", "openvino"), ["openvino"], id="chosen"),
    ],
)
def test_the_runtime_of_the_cpu_pool(values: Values, expected: list[str]) -> None:
    jobs = render(merged(ON_S3, values)).jobs
    assert flag(jobs["cpu"], "runtime") == expected
    assert flag(jobs["gpu"], "runtime") == []


NODE_CACHE = at("cache.hostPath", "/var/cache/sam3-annotate")
CLAIMED_CACHE = at("cache.pvc", {"claimName": "caches", "path": "/sam3/"})
CACHES: dict[str, tuple[Values, Values, Values]] = {
    "emptyDir": ({}, {"emptyDir": {"sizeLimit": "10Gi"}}, {}),
    "bounded": (at("cache.sizeLimit", "40Gi"), {"emptyDir": {"sizeLimit": "40Gi"}}, {}),
    "of the node": (NODE_CACHE, {"hostPath": {"path": "/var/cache/sam3-annotate", "type": "Directory"}}, {}),
    "of a claim": (CLAIMED_CACHE, {"persistentVolumeClaim": {"claimName": "caches"}}, {"subPath": "sam3"}),
    "of a whole claim": (
        at("cache.pvc.claimName", "caches"),
        {"persistentVolumeClaim": {"claimName": "caches"}},
        {},
    ),
}


@pytest.mark.parametrize(("values", "source", "mount"), CACHES.values(), ids=CACHES)
def test_the_volume_behind_the_cache(values: Values, source: Values, mount: Values) -> None:
    release = render(merged(ON_S3, values))
    workers = [job["spec"]["template"] for job in release.jobs.values()]

    for pod in (*workers, release.one("Pod", "doctor")):
        assert [volume for volume in pod["spec"]["volumes"] if volume["name"] == "cache"] == [
            {"name": "cache", **source}
        ]
        mounts = [entry for entry in container(pod)["volumeMounts"] if entry["name"] == "cache"]
        assert mounts == [{"name": "cache", "mountPath": "/cache", **mount}]


@pytest.mark.parametrize("values", [NODE_CACHE, CLAIMED_CACHE], ids=["of the node", "of a claim"])
def test_a_shared_cache_is_for_the_pools_only(values: Values) -> None:
    janitor = render(merged(ON_S3, values)).one("Job", "janitor")["spec"]["template"]
    export = render(merged(EXPORT, values)).one("Job", "export")["spec"]["template"]

    for pod, limit in ((janitor, "1Gi"), (export, "40Gi")):
        assert {"name": "cache", "emptyDir": {"sizeLimit": limit}} in pod["spec"]["volumes"]


def test_arguments_with_everything() -> None:
    found = arguments(render(EVERYTHING).jobs["gpu"])

    for expected in (
        "--input_storage_options=/secrets/input/storage_options.json",
        "--output_storage_options=/secrets/output/storage_options.json",
        "--out_top_dir=/volumes/results",
        "--prompts=car,fire engine",
        "--annotation_date=2026-01-31",
        "--include=cen*/*",
        "--exclude=-old/*",
        "--limit=1000",
        "--input_list=s3://pictures/list.csv",
        "--input_list_column=key",
        "--override_previous_annotations",
        "--override_reviewed",
        "--model=s3://models/fp16",
        "--model_digest=" + "d" * 64,
        "--checkpoint_digest=" + "c" * 64,
        "--batch_size=4",
        "--memory_budget=4G",
        "--shard_size=500",
        "--visualize",
        "--log_format=text",
    ):
        assert expected in found


def test_kubernetes_expands_no_variable_in_arguments() -> None:
    assert "$$(HOME)" in flag(render(EVERYTHING).jobs["cpu"], "exclude")


@pytest.mark.parametrize("pool", POOLS)
def test_pods_get_the_number_of_indexes_of_their_pool(pool: str) -> None:
    release = render(merged(ON_S3, at(f"pools.{pool}.completions", 123)))

    for name, job in release.jobs.items():
        env = {entry["name"]: entry.get("value") for entry in container(job["spec"]["template"])["env"]}
        assert env["SAM3_NUM_INDEXES"] == ("123" if name == pool else "8")


def test_scheduling_of_both_pools() -> None:
    jobs = render(ON_S3).jobs
    gpu, cpu = (jobs[pool]["spec"]["template"]["spec"] for pool in POOLS)

    assert gpu["containers"][0]["resources"]["limits"] == {"cpu": 4, "memory": "16Gi", "nvidia.com/gpu": 1}
    assert gpu["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "affinity" not in gpu
    assert cpu["containers"][0]["resources"]["limits"] == {"cpu": 4, "memory": "8Gi"}
    assert "tolerations" not in cpu
    required = cpu["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert {"key": "nvidia.com/gpu.present", "operator": "DoesNotExist"} in required["nodeSelectorTerms"][0][
        "matchExpressions"
    ]


def test_scheduling_values_of_the_user() -> None:
    gpu = render(EVERYTHING).jobs["gpu"]["spec"]["template"]["spec"]

    assert gpu["nodeSelector"] == {"zone": "a"}
    assert [toleration["key"] for toleration in gpu["tolerations"]] == ["nvidia.com/gpu", "spot"]
    assert (gpu["priorityClassName"], gpu["runtimeClassName"]) == ("batch", "nvidia")


def test_no_affinity_without_labels_of_accelerators() -> None:
    release = render(merged(ON_S3, at("gpu.nodeLabels", [])))

    assert not [pod for pod in release.pods if "affinity" in pod["spec"]]


def test_allow_cpu_requests_the_accelerator_and_computes_on_the_cpu() -> None:
    job = render(merged(ON_S3, at("pools.gpu.allowCpu", True))).jobs["gpu"]

    assert flag(job, "device") == ["cpu"]
    assert container(job["spec"]["template"])["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_suspend_is_rendered_only_when_true() -> None:
    assert all("suspend" not in job["spec"] for job in render(ON_S3).jobs.values())
    suspended = render(merged(ON_S3, at("pools.cpu.suspend", True))).jobs
    assert suspended["cpu"]["spec"]["suspend"] is True
    assert "suspend" not in suspended["gpu"]["spec"]


def test_kueue_owns_suspend() -> None:
    queued = merged(ON_S3, at("kueue.queueName", "night-shift"))

    for job in render(queued).jobs.values():
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night-shift"
        assert "suspend" not in job["spec"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "localhost/sam3-annotate:0.1.0-gpu"),
        (at("image", {"repository": "registry.example/sam3", "tag": "7"}), "registry.example/sam3:7-gpu"),
        (at("pools.gpu.image", {"repository": "a/b", "tag": "mine"}), "a/b:mine"),
        (at("pools.gpu.image.digest", "sha256:" + "a" * 64), "localhost/sam3-annotate@sha256:" + "a" * 64),
    ],
    ids=["default", "common", "of the pool", "digest"],
)
def test_images(values: Values, expected: str) -> None:
    assert container(render(merged(ON_S3, values)).jobs["gpu"]["spec"]["template"])["image"] == expected


def test_claims_are_mounted_once_and_writable_only_where_written() -> None:
    one_claim = merged(ON_VOLUMES, at("output.pvc", {"claimName": "pictures", "path": "out"}))
    pod = render(one_claim).jobs["cpu"]["spec"]["template"]

    assert flag(render(one_claim).jobs["cpu"], "input_top_dir") == ["/volumes/pictures/2026"]
    assert flag(render(one_claim).jobs["cpu"], "out_top_dir") == ["/volumes/pictures/out"]
    assert flag(render(one_claim).jobs["cpu"], "model") == ["/volumes/models/cpu"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container(pod)["volumeMounts"]}
    assert mounts == {"/tmp": False, "/cache": False, "/volumes/pictures": False, "/volumes/models": True}
    claims = [volume["persistentVolumeClaim"] for volume in pod["spec"]["volumes"] if "emptyDir" not in volume]
    assert claims == [{"claimName": "models", "readOnly": True}, {"claimName": "pictures"}]


def test_scratch_space_is_bounded() -> None:
    for pod in render(ON_S3).pods:
        scratch = [volume["emptyDir"] for volume in pod["spec"]["volumes"] if "emptyDir" in volume]
        assert scratch
        assert all(volume["sizeLimit"] for volume in scratch)


def test_environment_of_s3() -> None:
    only = container(render(EVERYTHING).jobs["cpu"]["spec"]["template"])
    env = {entry["name"]: entry.get("value") for entry in only["env"]}

    assert env["AWS_ENDPOINT_URL_S3"] == "https://s3.example"
    assert env["AWS_DEFAULT_REGION"] == "eu-1"
    assert env["AWS_CA_BUNDLE"] == "/secrets/s3-ca/ca.crt"
    assert env["HTTPS_PROXY"] == "http://proxy:3128"
    assert only["envFrom"] == [{"configMapRef": {"name": "settings"}}]


def test_the_liveness_probe_uses_the_metrics_port() -> None:
    only = container(render(merged(ON_S3, at("metrics.port", 9999))).jobs["gpu"]["spec"]["template"])

    assert only["ports"] == [{"name": "metrics", "containerPort": 9999}]
    assert only["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "metrics"}
    without = render(merged(ON_S3, at("livenessProbe.enabled", False))).jobs["gpu"]["spec"]["template"]
    assert "livenessProbe" not in container(without)
