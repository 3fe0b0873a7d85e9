"""A fake API server with recorded answers, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import yaml  # type: ignore[import-untyped]


@dataclass
class Api:
    """The objects of namespace garage.

    Attributes:
        jobs: Selected by label, as are pods.
        pods: Listed in pages of one object, as all kinds.
        events: Warning events about Jobs.
        nodes: By name.
        quotas: ResourceQuotas.
        limit_ranges: LimitRanges.
        logs: By pod; a missing pod has not started.
        refused: Kinds and subresources (`log`) that are forbidden.
        answer: Status and body for every request, instead of the objects.
        is_away: Whether connections end without an answer.
        asked: Requested paths with queries, in order.
        patched: Names of Jobs, and patches.
    """

    url: str = ""
    kubeconfig: Path = Path()
    jobs: list[Any] = field(default_factory=list)
    pods: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    nodes: dict[str, Any] = field(default_factory=dict)
    quotas: list[Any] = field(default_factory=list)
    limit_ranges: list[Any] = field(default_factory=list)
    logs: dict[str, bytes] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    answer: tuple[int, bytes] | None = None
    is_away: bool = False
    asked: list[str] = field(default_factory=list)
    patched: list[tuple[str, Any]] = field(default_factory=list)

    def respond(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        """Status and body."""
        kind, name, part = parsed(path)
        if self.answer is not None:
            return self.answer
        if {kind, part} & self.refused:
            return failure(403, f'{part or kind} is forbidden: User "me" cannot get it')
        if part == "log":
            return (200, self.logs[name]) if name in self.logs else failure(400, "container is waiting to start")
        if name:
            found = self.nodes if kind == "nodes" else {one["metadata"]["name"]: one for one in self._all(kind)}
            return (200, json.dumps(found[name]).encode()) if name in found else failure(404, f"{name} not found")
        return 200, self._page(kind, query)

    def _all(self, kind: str) -> list[dict[str, Any]]:
        items = {
            "jobs": self.jobs,
            "pods": self.pods,
            "events": self.events,
            "nodes": list(self.nodes.values()),
            "resourcequotas": self.quotas,
            "limitranges": self.limit_ranges,
        }[kind]
        return [msgspec.to_builtins(one) for one in items]

    def _page(self, kind: str, query: dict[str, str]) -> bytes:
        wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
        items = [one for one in self._all(kind) if wanted.items() <= one["metadata"].get("labels", {}).items()]
        start = int(query.get("continue") or 0)
        more = {"continue": str(start + 1), "remainingItemCount": len(items) - start - 1}
        metadata = {"resourceVersion": "1"} | (more if start + 1 < len(items) else {})
        return json.dumps({"kind": "List", "metadata": metadata, "items": items[start : start + 1]}).encode()


def parsed(path: str) -> tuple[str, str, str]:
    """Kind, name and subresource: `/api/v1/namespaces/garage/pods/x/log` is pods, x, log."""
    _, _, rest = path.partition("/namespaces/garage/")
    parts = (rest or path.partition("/api/v1/")[2]).split("/")
    kind, name, part = (*parts, "", "")[:3]
    return kind, name, part


def failure(code: int, message: str) -> tuple[int, bytes]:
    """An error answer of an API server."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
    return code, json.dumps(status | {"message": message}).encode()


class _Handler(BaseHTTPRequestHandler):
    api: Api
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet, or each answer takes 40 ms

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.api.asked.append(self.path)
        if self.api.is_away:
            self.close_connection = True
            return
        self._answer(*self.api.respond(parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}))

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = urlsplit(self.path).path
        status, job = self.api.respond(path, {})
        if status == 200:
            self.api.patched.append((parsed(path)[1], body))
        self._answer(status, job)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


@contextmanager
def served(folder: Path) -> Iterator[Api]:
    """Serve, with a kubeconfig in this folder."""
    api = Api()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    api.url = f"http://127.0.0.1:{server.server_port}"
    api.kubeconfig = write_kubeconfig(folder, api.url)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


def write_kubeconfig(folder: Path, url: str) -> Path:
    """Kubeconfig for namespace garage; the server of context `there` is unreachable, and it has no namespace."""
    contexts = [
        {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "garage"}},
        {"name": "there", "context": {"cluster": "there", "user": "me"}},
    ]
    clusters = [
        {"name": "here", "cluster": {"server": url}},
        {"name": "there", "cluster": {"server": "http://127.0.0.1:1"}},
    ]
    users = [{"name": "me", "user": {"token": "t"}}]
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump({"current-context": "here", "contexts": contexts, "clusters": clusters, "users": users})
    )
    return path
