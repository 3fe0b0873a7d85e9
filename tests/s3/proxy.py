"""A proxy in front of an S3 server: counts requests by kind, adds latency, injects faults, holds requests."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.s3.servers import ROOT, S3Server

FAULTS = (
    "error_500", "error_503", "timeout", "slow_bytes", "reset", "reset_midway",
    "lost_error_500", "lost_timeout", "lost_reset",
)  # fmt: skip
"""`lost_…`: the server has handled the request, its response is lost."""
_CODES = {"error_500": (500, "InternalError"), "error_503": (503, "SlowDown")}
_HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade"}
_LARGEST_BODY = 1 << 30


@dataclass(frozen=True)
class Seen:
    """A request: kind, path with query, User-Agent."""

    kind: str
    path: str
    agent: str


@dataclass(frozen=True)
class Refusal:
    """An error response of an S3 server."""

    status: int
    code: str
    message: str = "injected"


@dataclass
class Behaviour:
    """What the proxy does with requests; may be replaced at any time.

    Attributes:
        latency_s: Added to each request.
        fault_rate: Fraction of requests that get a fault: with 0.1 one of every ten of each kind.
        faults: Faults to choose from.
        kinds: Kinds of request that may get a fault; all if empty.
        hang_s: How long a `timeout` hangs.
        slow_s: How long `slow_bytes` takes.
        is_out: Respond to every request with 503.
        hold: Selects the requests to hold until `behaviour` is replaced.
        refuse: Returns the error response for a request, None to forward it.
        before: Called for each request before it is forwarded; False resets the connection.
        after: Called for each forwarded request, before the response is returned.
    """

    latency_s: float = 0.0
    fault_rate: float = 0.0
    faults: tuple[str, ...] = FAULTS
    kinds: tuple[str, ...] = ()
    hang_s: float = 3.0
    slow_s: float = 0.5
    is_out: bool = False
    hold: Callable[[Seen], bool] | None = None
    refuse: Callable[[web.Request], Refusal | None] | None = None
    before: Callable[[Seen], bool] | None = None
    after: Callable[[Seen], None] | None = None


@dataclass
class FaultProxy:
    """A running proxy.

    Attributes:
        server: Endpoint of the proxy.
        behaviour: What it does with requests.
        requests: Requests by kind: LIST GET HEAD PUT CREATE COPY DELETE OTHER.
        injected: Faults by (fault, kind of request).
        log: Each request, in order.
    """

    server: S3Server
    upstream: str
    seed: int
    behaviour: Behaviour = field(default_factory=Behaviour)
    requests: Counter[str] = field(default_factory=Counter)
    injected: Counter[tuple[str, str]] = field(default_factory=Counter)
    log: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._decks: dict[str, list[bool]] = {}

    def reset(self) -> None:
        """Reset the counters and the log."""
        self.requests, self.injected, self.log = Counter(), Counter(), []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle one request."""
        kind, behaviour = _kind_of(request), self.behaviour
        seen = Seen(kind, request.raw_path, request.headers.get("User-Agent", ""))
        self.requests[kind] += 1
        self.log.append(seen)
        body = await request.read()
        if behaviour.latency_s:
            await asyncio.sleep(behaviour.latency_s)
        while self.behaviour.hold is not None and self.behaviour.hold(seen):
            await asyncio.sleep(0.01)
        if behaviour.is_out:
            return _error(503, "SlowDown")
        refusal = behaviour.refuse(request) if behaviour.refuse is not None else None
        if refusal is not None:
            return _error(refusal.status, refusal.code, refusal.message)
        if behaviour.before is not None and not behaviour.before(seen):
            return _reset(request)
        fault = self._choose(kind, behaviour)
        if fault is not None:
            self.injected[fault, kind] += 1
            return await self._inject(request, body, fault)
        answer = await self._forward(request, body)
        if behaviour.after is not None:
            behaviour.after(seen)
        return _answer(*answer)

    def _choose(self, kind: str, behaviour: Behaviour) -> str | None:
        if behaviour.kinds and kind not in behaviour.kinds:
            return None
        if not behaviour.fault_rate:
            return None
        deck = self._decks.setdefault(kind, [])
        if not deck:
            deck += [True] + [False] * (round(1 / behaviour.fault_rate) - 1)
            self._random.shuffle(deck)
        return self._random.choice(behaviour.faults) if deck.pop() else None

    async def _inject(self, request: web.Request, body: bytes, fault: str) -> web.StreamResponse:
        if fault.startswith("lost_"):
            await self._forward(request, body)
            fault = fault.removeprefix("lost_")
        if fault == "timeout":
            await asyncio.sleep(self.behaviour.hang_s)
            return _reset(request)
        if fault == "reset":
            return _reset(request)
        if fault in _CODES:
            return _error(*_CODES[fault])
        status, headers, answer = await self._forward(request, body)
        return await self._dribble(request, status, headers, answer, is_cut=fault == "reset_midway")

    async def _dribble(
        self, request: web.Request, status: int, headers: CIMultiDict[str], answer: bytes, *, is_cut: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        if request.method != "HEAD":
            response.content_length = len(answer)
        await response.prepare(request)
        pieces = 5
        size = max(1, -(-len(answer) // pieces))
        for start in range(0, len(answer), size):
            if is_cut and start >= len(answer) // 2:
                return _reset(request)
            await response.write(answer[start : start + size])
            if not is_cut:
                await asyncio.sleep(self.behaviour.slow_s / pieces)
        if is_cut:
            return _reset(request)
        await response.write_eof()
        return response

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, CIMultiDict[str], bytes]:
        """Forward a request with its Host header, which the signature covers."""
        session: aiohttp.ClientSession = request.app[_SESSION]
        headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in _HOP_HEADERS)
        url = URL(self.upstream + request.raw_path, encoded=True)
        async with session.request(request.method, url, headers=headers, data=body, allow_redirects=False) as answer:
            kept = CIMultiDict((k, v) for k, v in answer.headers.items() if k.lower() not in _HOP_HEADERS)
            return answer.status, kept, await answer.read()


_SESSION = web.AppKey("session", aiohttp.ClientSession)


@contextmanager
def fault_proxy(server: S3Server, seed: int = 1, host: str = "127.0.0.1") -> Iterator[FaultProxy]:
    """Run a proxy in a thread, on an address of this machine."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    proxy = FaultProxy(server=server, upstream=server.endpoint_url, seed=seed)
    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=_LARGEST_BODY)
        app[_SESSION] = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
        )
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await runner.setup()
        site = web.TCPSite(runner, host, 0)
        await site.start()
        port = runner.addresses[0][1]
        proxy.server = replace(server, endpoint_url=f"http://{host}:{port}")
        started.set()
        await stop.wait()
        await runner.cleanup()
        await app[_SESSION].close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="proxy", daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        with suppress(RuntimeError):
            loop.close()


@contextmanager
def slow_proxy(server: S3Server, latency_s: float) -> Iterator[S3Server]:
    """Run a proxy that only adds latency, in a process."""
    command = [sys.executable, "-m", "tests.s3.proxy", server.endpoint_url, str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield replace(server, endpoint_url=process.stdout.readline().strip())
        finally:
            process.terminate()


def _kind_of(request: web.Request) -> str:
    if request.method == "GET":
        return "LIST" if "list-type" in request.query else "GET"
    if request.method != "PUT":
        return request.method if request.method in {"HEAD", "DELETE"} else "OTHER"
    if "x-amz-copy-source" in request.headers:
        return "COPY"
    return "CREATE" if request.headers.get("If-None-Match") == "*" else "PUT"


def _answer(status: int, headers: CIMultiDict[str], body: bytes) -> web.Response:
    response = web.Response(status=status, headers=headers, body=body)
    if not body and "Content-Length" in headers:
        response.headers["Content-Length"] = headers["Content-Length"]  # of a HEAD
    return response


def _error(status: int, code: str, message: str = "injected") -> web.Response:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


def _reset(request: web.Request) -> web.StreamResponse:
    """Close the connection with RST instead of FIN."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


def _serve(upstream: str, latency_s: float) -> None:
    with fault_proxy(S3Server(upstream)) as proxy:
        proxy.behaviour = Behaviour(latency_s=latency_s)
        sys.stdout.write(f"{proxy.server.endpoint_url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    _serve(sys.argv[1], float(sys.argv[2]))
