"""The border to the API server, and the commands behind it, against recorded answers over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from job.errors import ConfigurationError, UsageError
from k8s.cluster import Cluster, ClusterError
from k8s.commands.changes import cancel
from k8s.commands.logs import logs
from k8s.commands.status import status
from k8s.janitor import suspend_what_is_left
from tests.fakes import JumpingClock
from tests.k8s.objects import job, pod


@dataclass
class Api:
    """An API server that answers what it was told, a page of one item at a time."""

    url: str = ""
    jobs: list[Any] = field(default_factory=list)
    pods: list[Any] = field(default_factory=list)
    status: int = 200
    asked: list[str] = field(default_factory=list)
    patched: list[tuple[str, Any]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    api: Api

    def do_GET(self) -> None:
        parts, api = urlsplit(self.path), self.api
        api.asked.append(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if api.status != 200:
            return self._answer(api.status, {"kind": "Status", "message": "no such luck"})
        kind, _, name = parts.path.partition("/namespaces/garage/")[2].partition("/")
        if kind == "pods" and name.endswith("/log"):
            return self._answer(200, "one\ntwo é\nthree".encode())
        if name:
            found = [one for one in api.jobs if one.metadata.name == name]
            return self._answer(200, found[0]) if found else self._answer(404, {"message": f'jobs "{name}" not found'})
        items: list[Any] = {"jobs": api.jobs, "pods": api.pods}.get(kind, [])
        start = int(query.get("continue", "0"))
        following = {"continue": str(start + 1)} if start + 1 < len(items) else {}
        return self._answer(200, {"metadata": following, "items": items[start : start + 1]})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.api.patched.append((urlsplit(self.path).path.rpartition("/")[2], body))
        self._answer(200, {"metadata": {"name": "x"}})

    def _answer(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """With a kubeconfig that leads to it."""
    found = Api()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": found}))
    found.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, found.url)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def kubeconfig(folder: Path, url: str) -> Path:
    path = folder / "kubeconfig"
    context = {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "garage"}}
    clusters, users = [{"name": "here", "cluster": {"server": url}}], [{"name": "me", "user": {"token": "t"}}]
    path.write_text(
        yaml.safe_dump({"current-context": "here", "contexts": [context], "clusters": clusters, "users": users})
    )
    return path


def called(command: Any, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_lists_are_read_page_by_page(api: Api) -> None:
    api.pods = [pod(index) for index in range(3)]
    assert [one.index for one in Cluster().pods("a=b")] == [0, 1, 2]
    assert len(api.asked) == 3
    assert all("limit=500" in path and "labelSelector=a%3Db" in path for path in api.asked)


@pytest.mark.parametrize(
    ("status_code", "error"), [(401, ConfigurationError), (403, ConfigurationError), (500, ClusterError)]
)
def test_refusals_and_failures_become_ours(api: Api, status_code: int, error: type[Exception]) -> None:
    api.status = status_code
    with pytest.raises(error, match="list pods in namespace garage: no such luck"):
        list(Cluster().pods("a=b"))


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "http://127.0.0.1:1")))
    with pytest.raises(ClusterError, match="out of reach"):
        Cluster().job("x")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="no cluster"):
        Cluster()


def test_status_as_a_program_reads_it(api: Api, tmp_path: Path) -> None:
    api.jobs = [job("gpu", ready=2, active=2)]
    found = called(status, "night", "-o", "json", "--output_storage_options", str(options(tmp_path)))
    assert found.exception is None
    told = json.loads(found.stdout)
    assert (told["state"], told["run"], told["pools"]["gpu"]["pods"]) == ("working", "night-1a2b3c4d", 2)
    assert told["progress"] is None
    assert "cannot be read from here" in told["warnings"][0]


def options(folder: Path) -> Path:
    """Options that no driver takes, so that nothing is asked of a real store."""
    path = folder / "options.json"
    path.write_text('{"no_such_option": 1}')
    return path


def test_a_release_that_is_not_there(api: Api) -> None:
    found = called(status, "night")
    assert isinstance(found.exception, UsageError)
    assert "namespace garage has no Jobs of a release night" in str(found.exception)


def test_logs_name_pool_and_index_and_leave_out_the_replaced(api: Api) -> None:
    api.jobs = [job("gpu")]
    api.pods = [pod(0), pod(1)]
    assert called(logs, "night", "--index", "1").stdout.splitlines()[:3] == ["gpu-0 one", "gpu-0 two é", "gpu-0 three"]
    assert any("job-completion-index%3D1" in path for path in api.asked)


def test_nothing_is_cancelled_unasked(api: Api) -> None:
    api.jobs = [job("gpu")]
    found = called(cancel, "night")
    assert isinstance(found.exception, UsageError)
    assert "--yes" in str(found.exception)


def test_the_janitor_leaves_what_has_ended_alone(api: Api) -> None:
    done = {"type": "Complete", "status": "True"}
    api.jobs = [job("gpu"), job("cpu", conditions=(done,))]
    names = [one.metadata.name for one in api.jobs]
    assert suspend_what_is_left(Cluster(), [*names, "gone"], JumpingClock()) == [names[0]]
    assert api.patched == [(names[0], {"spec": {"suspend": True}})]
