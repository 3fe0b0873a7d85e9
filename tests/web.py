"""A web server of the standard library that serves a folder by ranges, counts what it sends, and can be held up."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Web:
    """A folder on a web server.

    Attributes:
        folder: What is served.
        sent: Bytes sent by name.
        asked: Names asked for, in order.
        refusals: Statuses to answer with first.
        hold_after: After so many bytes of one name, wait for `go_on`.
        has_ranges: Whether parts of files can be had.
    """

    folder: Path
    url: str = ""
    sent: Counter[str] = field(default_factory=Counter)
    asked: list[str] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    hold_after: tuple[str, int] | None = None
    has_ranges: bool = True
    held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    web: Web
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        web, name = self.web, self.path.strip("/")
        web.asked.append(name)
        path = web.folder / name
        if web.refusals:
            return self._answer(web.refusals.pop(0), b"")
        if not path.is_file():
            return self._answer(404, b"")
        if web.hold_after is not None and web.hold_after[0] == name and web.sent[name] >= web.hold_after[1]:
            web.held.set()
            web.go_on.wait(60)
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if web.has_ranges else None
        if wanted is None:
            return self._answer(200, data)
        start, last = map(int, wanted.groups())
        return self._answer(206, data[start : last + 1]) if start < len(data) else self._answer(416, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.web.sent[self.path.strip("/")] += len(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error here."""


@contextmanager
def served(folder: Path) -> Iterator[Web]:
    web = Web(folder)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    web.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield web
    finally:
        web.go_on.set()
        server.shutdown()
        server.server_close()
