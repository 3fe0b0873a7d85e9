"""The command line with an injected defect: `troubled.py DEFECT FLAG…`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

from job.cli.main import main
from job.pipeline import stages
from job.run import heartbeat
from job.telemetry import metrics
from job.worker import factory, shards, worker

LONG_S = 60


def stuck() -> None:
    """The coordinator thread hangs while it writes a marker; heartbeats continue."""
    heartbeat.BEAT_INTERVAL_S = 0.1
    metrics.RETRY_TIMEOUT_S, metrics.MARGIN_S = 1.0, 0.0
    worker.write_marker = lambda *arguments: time.sleep(LONG_S)


def hung_image() -> None:
    """The decoder hangs on a picture."""
    stages.decode_for_model = lambda *arguments: time.sleep(LONG_S)


def slow_load() -> None:
    """Loading the model takes long, inside foreign code that no signal interrupts."""
    factory.open_session = lambda *arguments, **options: ctypes.CDLL(None).sleep(LONG_S)


def unexpected() -> None:
    """A defect."""

    def fail(*arguments: Any) -> None:
        raise RuntimeError("two lines\nof a defect")

    shards.read_shard = fail


def term_at_the_end() -> None:
    """SIGTERM comes when the last image has just been written."""
    write = stages.Annotator.write
    left = int(os.environ["IMAGES"])

    def counted(self: Any, encoded: Any) -> Any:
        nonlocal left
        row = write(self, encoded)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return row

    stages.Annotator.write = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    main(sys.argv[2:])
