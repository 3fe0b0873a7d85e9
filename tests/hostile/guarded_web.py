"""A web server that serves a folder to those who give a password or a signature, and refuses all others."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

MISSING, FORBIDDEN, JUNK = "missing", "forbidden", "junk"
"""Paths that hold one of these words are answered with 404, 403 and with bytes of no format."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    secrets: frozenset[str]
    served: set[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        path = unquote(split.path).strip("/")
        secret = self._secret(split.query)
        if secret is None or FORBIDDEN in path:
            return self._answer(403, b"refused")
        self.served.add(secret)
        if JUNK in path:
            return self._answer(200, b"\xff\xfe junk {")
        found = self.folder / path
        if MISSING in path or not found.exists():
            return self._answer(404, b"no such file")
        return self._answer(200, _page(found) if found.is_dir() else found.read_bytes())

    def _secret(self, query: str) -> str | None:
        """The secret that the request holds, or None."""
        kind, _, encoded = self.headers.get("Authorization", "").partition(" ")
        given = base64.b64decode(encoded).decode().partition(":")[2] if kind == "Basic" else ""
        return next((secret for secret in self.secrets if secret == given or secret in unquote(query)), None)

    def _answer(self, status: int, body: bytes) -> None:
        start, last = 0, len(body) - 1
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        if status == 200 and asked:
            first, _, end = asked.partition("-")
            start, last = int(first), min(last, int(end or last))
            status, body = (206, body[start : last + 1]) if start <= last else (416, b"")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _page(folder: Path) -> bytes:
    """Links to the files and folders in a folder."""
    names = (f"{path.name}/" if path.is_dir() else path.name for path in sorted(folder.iterdir()))
    return "".join(f'<a href="{name}">{name}</a>\n' for name in names).encode()


@contextmanager
def guarded(folder: Path, secrets: frozenset[str]) -> Iterator[tuple[str, set[str]]]:
    """Serve a folder.

    Yields:
        Host and port, and the secrets that were used so far.
    """
    used: set[str] = set()
    handler = type("Handler", (_Handler,), {"folder": folder, "secrets": secrets, "served": used})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", used
    finally:
        server.shutdown()
        server.server_close()
