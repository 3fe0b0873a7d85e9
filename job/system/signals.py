"""Handling of SIGTERM and Ctrl-C: an orderly stop during work, else an immediate exit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from job.errors import InterruptedRunError
from job.system.leaving import LEAVING

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_raised = threading.Event()


def was_interrupted() -> bool:
    """Whether a signal has raised an error in the latest block of `ended_by_sigterm`, or in a block within it.

    An extension module whose import is interrupted reports an `ImportError` instead.
    """
    return _raised.is_set()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise an error in the block at the first signal.

    Raises:
        InterruptedRunError: SIGTERM or SIGINT arrived.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            LEAVING.begin()
        _raised.set()
        raise InterruptedRunError("interrupted with work left: rerun the same command to resume")

    with _handled(on_signal):
        yield


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Raise an error in the block at SIGTERM, which the first process of a container ignores by default.

    Raises:
        InterruptedRunError: SIGTERM arrived.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        _raised.set()
        raise InterruptedRunError("ended by SIGTERM: rerun the same command to resume")

    _raised.clear()
    with _handled(on_signal, (signal.SIGTERM,)):
        yield


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set an event at the first signal; a second Ctrl-C raises `KeyboardInterrupt`.

    SIGTERM starts the time that this process has to leave (`job.system.leaving`).
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGTERM:
            LEAVING.begin()
        stop.set()

    with _handled(on_signal):
        yield


@contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], None], signals: tuple[signal.Signals, ...] = _SIGNALS
) -> Iterator[None]:
    """Install a handler in the main thread; other threads cannot handle signals, so nothing changes there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
