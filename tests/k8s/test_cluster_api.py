"""The client of the API server, against recorded answers over real HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kubernetes import client
from kubernetes.config import incluster_config

from job.errors import AnnotateError, ConfigurationError
from k8s.cluster import Cluster, ClusterError
from tests.k8s.api import Api, failure, write_kubeconfig
from tests.k8s.objects import condition, job, pod


def test_lists_are_read_page_by_page(api: Api) -> None:
    api.pods = [pod(index) for index in range(3)]
    assert [one.index for one in Cluster().pods("sam3-annotate/pool=gpu")] == [0, 1, 2]
    assert len(api.asked) == 3
    assert all("limit=500" in path and "labelSelector=sam3-annotate%2Fpool%3Dgpu" in path for path in api.asked)
    assert "continue=2" in api.asked[2]


def test_selectors(api: Api) -> None:
    api.jobs, api.pods = [job("gpu"), job("cpu")], []
    cluster = Cluster()
    assert [one.metadata.name for one in cluster.jobs("sam3-annotate/pool=cpu")] == ["night-cpu-0a1b2c3d"]
    assert list(cluster.pods("sam3-annotate/pool=cpu")) == []
    assert list(cluster.warnings()) == []
    assert "fieldSelector=type%3DWarning%2CinvolvedObject.kind%3DJob" in api.asked[-1]


def test_one_job_or_none(api: Api) -> None:
    api.jobs = [job("gpu")]
    found = Cluster().job("night-gpu-0a1b2c3d")
    assert found is not None
    assert found.spec.completions == 8
    assert Cluster().job("gone") is None


def test_one_node_or_none(api: Api) -> None:
    api.nodes = {"gpu-0": {"metadata": {"name": "gpu-0"}, "status": {"conditions": [condition("Ready", "Unknown")]}}}
    found = Cluster().node("gpu-0")
    assert found is not None
    assert not found.is_ready
    assert Cluster().node("gone") is None


def test_suspending_a_missing_job_is_no_error(api: Api) -> None:
    api.jobs = [job("gpu")]
    Cluster().suspend("gone")
    Cluster().suspend("night-gpu-0a1b2c3d")
    assert api.patched == [("night-gpu-0a1b2c3d", {"spec": {"suspend": True}})]


REFUSALS: dict[str, tuple[tuple[int, bytes], type[AnnotateError], str]] = {
    "who are you": (failure(401, "Unauthorized"), ConfigurationError, "refuses to .* garage: Unauthorized. Log in"),
    "you may not": (
        failure(403, "pods is forbidden"),
        ConfigurationError,
        "pods is forbidden. Log in, or ask for a Role",
    ),
    "a list that is too old": (failure(410, "continue is too old"), ClusterError, "failed to .*: continue is too old"),
    "too many requests": (failure(429, "later"), ClusterError, "failed to .*: later"),
    "broken": (failure(500, "etcdserver: no leader"), ClusterError, "failed to .*: etcdserver: no leader"),
    "no words": ((503, b""), ClusterError, "503 Service Unavailable"),
    "words of a proxy": ((502, b"<html>Bad Gateway</html>"), ClusterError, "502 Bad Gateway"),
    "a page of a proxy": ((200, b"<html>Log in</html>"), ClusterError, "did not answer like an API server"),
}


@pytest.mark.parametrize(("answer", "error", "words"), REFUSALS.values(), ids=REFUSALS)
def test_api_errors_are_mapped(api: Api, answer: tuple[int, bytes], error: type[AnnotateError], words: str) -> None:
    api.answer = answer
    cluster = Cluster()
    for ask in (
        lambda: list(cluster.pods("a=b")),
        lambda: list(cluster.warnings()),
        lambda: cluster.job("x"),
        lambda: cluster.node("x"),
    ):
        with pytest.raises(error, match=words) as caught:
            ask()
        assert caught.value.exit_code == (78 if error is ConfigurationError else 75)


def test_a_refusal_names_the_missing_permission(api: Api) -> None:
    api.refused = {"jobs"}
    with pytest.raises(ConfigurationError, match="refuses to patch jobs in namespace garage: jobs is forbidden"):
        Cluster().suspend("x")
    with pytest.raises(ConfigurationError, match="refuses to get jobs"):
        Cluster().job("x")


def test_logs_line_by_line(api: Api) -> None:
    api.logs = {"whole": b"one\ntwo \xc3\xa9\n", "torn": b"one\n\xff no end", "empty": b""}
    cluster = Cluster()
    assert list(cluster.log("whole", follow=False, tail=None)) == ["one", "two é"]
    assert list(cluster.log("torn", follow=True, tail=5)) == ["one", "\N{REPLACEMENT CHARACTER} no end"]
    assert "follow=True" in api.asked[-1]
    assert "tailLines=5" in api.asked[-1]
    assert list(cluster.log("empty", follow=False, tail=None)) == []
    assert list(cluster.log("not started", follow=False, tail=None)) == []


def test_lines_are_joined_across_blocks(api: Api) -> None:
    lines = [f"{number:05d} {'x' * 70} é" for number in range(5000)]
    api.logs = {"long": "\n".join(lines).encode()}
    assert list(Cluster().log("long", follow=False, tail=None)) == lines


def test_an_unreachable_api_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path, "http://127.0.0.1:1")))
    with pytest.raises(ClusterError, match=r"API server http://127\.0\.0\.1:1 is unreachable"):
        Cluster().job("x")


def test_namespace_and_context(api: Api) -> None:
    assert Cluster().namespace == "garage"
    assert Cluster("other").namespace == "other"
    assert Cluster(context="here").namespace == "garage"
    assert Cluster(context="there").namespace == "default"


@pytest.fixture
def in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of namespace night, with a service account and no kubeconfig."""
    for name, text in {"token": "secret", "ca.crt": "certificates", "namespace": "night\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("k8s.cluster.SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("in_a_pod")
def test_a_pod_uses_its_service_account() -> None:
    assert Cluster().namespace == "night"
    assert client.Configuration.get_default_copy().host == "https://10.0.0.1:443"
    assert Cluster("other").namespace == "other"


@pytest.mark.usefixtures("in_a_pod")
def test_a_kubeconfig_takes_precedence_in_a_pod(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Cluster().namespace == "garage"
    assert Cluster(context="there").namespace == "default"
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "~/.kube/config")
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(api.kubeconfig.read_text())
    assert Cluster().namespace == "garage"


@pytest.mark.usefixtures("in_a_pod")
def test_a_pod_without_a_service_account(tmp_path: Path) -> None:
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigurationError, match="no cluster is configured: Service token file does not exist"):
        Cluster()


CONFIGURATIONS = {
    "none": None,
    "empty": "",
    "no context": json.dumps({"clusters": [], "users": [], "contexts": []}),
    "no YAML": "clusters: [",
}


@pytest.mark.parametrize("text", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_without_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(
        ConfigurationError, match=r"(?s)no cluster is configured: .*Set KUBECONFIG, or give --kube_context"
    ):
        Cluster()


def test_a_missing_context(api: Api) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        Cluster(context="nowhere")
