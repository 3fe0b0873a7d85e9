"""A process leaves within its grace period, whatever hangs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

HANGS = """
import threading, time
import job.system.leaving as leaving
from job.system.signals import stopped_by_signals
leaving.EXIT_S = 1.0
stop = threading.Event()
with stopped_by_signals(stop):
    print("ready", flush=True)
    while True:
        time.sleep(0.1)
"""


def test_a_process_that_hangs_after_sigterm_exits_with_75() -> None:
    with subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        begun_s = time.monotonic()
        assert process.wait(timeout=30) == 75
        assert time.monotonic() - begun_s >= 1.0


def test_ctrl_c_sets_no_deadline() -> None:
    with subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)  # the second ends it
        assert process.wait(timeout=30) != 75
