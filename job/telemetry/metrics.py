"""Endpoints for Prometheus and the kubelet: `/metrics` and `/livez`, served from a separate thread."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from job.errors import WorkerError
from job.run.journal import ANNOTATED, FAILED, REVIEWED, SKIPPED
from job.storage.retry import RETRY_TIMEOUT_S
from job.system.watchdog import Watchdog
from job.telemetry.observer import Load, Observer

logger = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"


class Metrics(Observer):
    """Metrics of one process."""

    def __init__(self, pool: str, index: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._labels = {"pool": pool, "index": str(index)}
        self._run = Info(
            "sam3_annotate_run", "The run, and the pool and index of this process.", registry=self.registry
        )
        self._images = Counter(
            "sam3_annotate_images", "Images that this process has finished.", ["result"], registry=self.registry
        )
        for result in (ANNOTATED, FAILED, REVIEWED, SKIPPED):
            self._images.labels(result)
        self._stages = Summary(
            "sam3_annotate_stage_seconds", "Time of one image in a stage.", ["stage"], registry=self.registry
        )
        self._loading = Gauge(
            "sam3_annotate_model_load_seconds", "Time until the model was loaded.", registry=self.registry
        )
        self._check = Info(
            "sam3_annotate_self_check", "The self-check that the model passed at start.", registry=self.registry
        )
        self._load = _LoadCollector()
        self.registry.register(self._load)

    def run_opened(self, run_name: str) -> None:
        """See `Observer`."""
        self._run.info({"run": run_name, **self._labels})

    def model_loaded(self, seconds: float) -> None:
        """See `Observer`; the last of several workers counts."""
        self._loading.set(seconds)

    def model_checked(self, digest: str) -> None:
        """See `Observer`; of several workers the last."""
        self._check.info({"digest": digest, "result": "passed" if digest else "off"})

    def worker_ready(self, load: Callable[[], Load]) -> None:
        """See `Observer`."""
        self._load.read = load

    def image_finished(self, result: str, seconds: Mapping[str, float]) -> None:
        """See `Observer`."""
        self._images.labels(result).inc()
        for stage, spent_s in seconds.items():
            self._stages.labels(stage).observe(spent_s)


class _LoadCollector(Collector):
    """Reads the load of the worker at collection time."""

    def __init__(self) -> None:
        self.read: Callable[[], Load] | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if self.read is None:
            return
        load = self.read()
        queued = GaugeMetricFamily("sam3_annotate_queued_images", "Images that wait for a stage.", labels=["stage"])
        for stage, images in load.queued.items():
            queued.add_metric([stage], images)
        yield queued
        yield GaugeMetricFamily(
            "sam3_annotate_resident_bytes", "Memory of images in flight.", value=load.resident_bytes
        )


@contextmanager
def served(port: int, metrics: Metrics, watchdog: Watchdog, max_idle_s: float) -> Iterator[None]:
    """Serve on all interfaces while the block runs.

    Args:
        port: TCP port, 1 to 65535; 0 for any free port.
        metrics: What `/metrics` shows.
        watchdog: Decides whether `/livez` returns 200.
        max_idle_s: Seconds without progress after which `/livez` returns 503.

    Raises:
        WorkerError: The port is in use, or may not be used.
    """
    livez = _Livez(watchdog, max_idle_s)
    pages = {
        "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry)),
        "/livez": livez,
    }
    try:
        server = _Server(("", port), type("Handler", (_Handler,), {"pages": pages}))
    except OSError as exc:
        raise WorkerError(f"--metrics_port {port}: {exc.strerror}. Give a free port") from exc
    logger.debug("Metrics and liveness on port %d", server.server_port)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Livez:
    """The `/livez` page; logs a failure once, because the kubelet does not log response bodies."""

    def __init__(self, watchdog: Watchdog, max_idle_s: float) -> None:
        self._watchdog = watchdog
        self._max_idle_s = max_idle_s
        self._is_logged = False

    def __call__(self) -> tuple[int, str, bytes]:
        idle_s = self._watchdog.idle_s
        if idle_s <= self._max_idle_s:
            self._is_logged = False
            return 200, _TEXT, b"ok\n"
        message = f"No progress for {idle_s:.0f} s, allowed are {self._max_idle_s:.0f} s"
        if not self._is_logged:
            logger.error("%s: /livez returns 503", message)
            self._is_logged = True
        return 503, _TEXT, f"{message}\n".encode()


class _Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    daemon_threads = True

    def server_bind(self) -> None:
        """Accept IPv4 connections too."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    pages: Mapping[str, Callable[[], tuple[int, str, bytes]]] = {}
    timeout = 30

    def do_GET(self) -> None:
        """Send a page."""
        page = self.pages.get(self.path.partition("?")[0])
        status, kind, body = (404, _TEXT, b"/metrics or /livez\n") if page is None else page()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Do not log probes."""


MARGIN_S = 60.0


def max_idle_s(image_timeout_s: float) -> float:
    """Longest time without progress, in seconds: one stage of an image, one retried storage request, and a margin."""
    return image_timeout_s + RETRY_TIMEOUT_S + MARGIN_S
