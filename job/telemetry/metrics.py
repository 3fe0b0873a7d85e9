"""What a pod tells Prometheus and the kubelet: `/metrics` and `/livez`, served from a thread of its own."""

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
    """The figures of one process."""

    def __init__(self, pool: str, index: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._place = {"pool": pool, "index": str(index)}
        self._run = Info("sam3_annotate_run", "The run, and this process's place in it.", registry=self.registry)
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
        self._run.info({"run": run_name, **self._place})

    def model_loaded(self, seconds: float) -> None:
        """See `Observer`; of several workers the last."""
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
    """Asks the worker when it is asked."""

    def __init__(self) -> None:
        self.read: Callable[[], Load] | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if self.read is None:
            return
        load = self.read()
        queued = GaugeMetricFamily("sam3_annotate_queued_images", "Images waiting for a stage.", labels=["stage"])
        for stage, images in load.queued.items():
            queued.add_metric([stage], images)
        yield queued
        yield GaugeMetricFamily(
            "sam3_annotate_resident_bytes", "Memory that images on their way hold.", value=load.resident_bytes
        )


@contextmanager
def served(port: int, metrics: Metrics, watchdog: Watchdog, max_idle_s: float) -> Iterator[None]:
    """Serve for the length of a block, on all interfaces.

    Args:
        port: Where; 0 for any.
        metrics: What `/metrics` shows.
        watchdog: `/livez` answers 200 while it beats.
        max_idle_s: How long it may stand still.

    Raises:
        WorkerError: The port is taken, or may not be used.
    """
    livez = _Livez(watchdog, max_idle_s)
    pages = {
        "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry)),
        "/livez": livez,
    }
    try:
        server = _Server(("", port), type("Handler", (_Handler,), {"pages": pages}))
    except OSError as exc:
        raise WorkerError(f"--metrics_port {port}: {exc.strerror}. Give a port that is free") from exc
    logger.debug("Metrics and liveness on port %d", server.server_port)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Livez:
    """Told to the log once, since the kubelet tells nobody what it was answered."""

    def __init__(self, watchdog: Watchdog, max_idle_s: float) -> None:
        self._watchdog = watchdog
        self._max_idle_s = max_idle_s
        self._is_told = False

    def __call__(self) -> tuple[int, str, bytes]:
        idle_s = self._watchdog.idle_s
        if idle_s <= self._max_idle_s:
            self._is_told = False
            return 200, _TEXT, b"ok\n"
        sentence = f"Nothing has moved for {idle_s:.0f} s, allowed are {self._max_idle_s:.0f} s"
        if not self._is_told:
            logger.error("%s: /livez says so", sentence)
            self._is_told = True
        return 503, _TEXT, f"{sentence}\n".encode()


class _Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    daemon_threads = True

    def server_bind(self) -> None:
        """Answer on IPv4 too."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    pages: Mapping[str, Callable[[], tuple[int, str, bytes]]] = {}
    timeout = 30

    def do_GET(self) -> None:
        """Answer."""
        page = self.pages.get(self.path.partition("?")[0])
        status, kind, body = (404, _TEXT, b"/metrics or /livez\n") if page is None else page()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of a probe every few seconds."""


MARGIN_S = 60.0


def max_idle_s(image_timeout_s: float) -> float:
    """How long nothing may move: one stage may take its time, one request of storage is tried so long."""
    return image_timeout_s + RETRY_TIMEOUT_S + MARGIN_S
