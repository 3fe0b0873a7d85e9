"""SIGTERM and Ctrl-C: stop in order where there is an order to keep, else at once; never lose what is stored."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from job.errors import InterruptedRunError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the block with an error at the first signal.

    Raises:
        InterruptedRunError: SIGTERM or SIGINT came.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise InterruptedRunError("interrupted with work left: rerun the same command to resume")

    with _handled(on_signal):
        yield


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """End the block with an error at SIGTERM, which the first process of a container would not even notice.

    Raises:
        InterruptedRunError: SIGTERM came.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise InterruptedRunError("ended by SIGTERM: rerun the same command to resume")

    with _handled(on_signal, (signal.SIGTERM,)):
        yield


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set an event at the first signal; a second Ctrl-C raises `KeyboardInterrupt`."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    with _handled(on_signal):
        yield


@contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], None], signals: tuple[signal.Signals, ...] = _SIGNALS
) -> Iterator[None]:
    """Only the main thread may handle signals; elsewhere (a run inside another program) nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
