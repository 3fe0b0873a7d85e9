"""Concurrent calls in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

THREADS = 16

_T = TypeVar("_T")
_R = TypeVar("_R")


def call_aside(function: Callable[[], _R], timeout_s: float | None = None) -> _R:
    """Call foreign code that no signal interrupts in its own thread; a signal interrupts the wait for it.

    Raises:
        TimeoutError: No result after `timeout_s`; the thread continues and does not keep the process alive.
    """
    answer: Future[_R] = Future()

    def call() -> None:
        try:
            answer.set_result(function())
        except BaseException as exc:  # noqa: BLE001 - `result` raises it
            answer.set_exception(exc)

    threading.Thread(target=call, name="aside", daemon=True).start()
    return answer.result(timeout_s)


def map_in_threads(function: Callable[[_T], _R], items: Iterable[_T], threads: int = THREADS) -> list[_R]:
    """Results in order; raises the first error after the started calls have ended."""
    return list(iter_in_threads(function, items, threads))


def iter_in_threads(function: Callable[[_T], _R], items: Iterable[_T], threads: int = THREADS) -> Iterator[_R]:
    """Yield results in order; reads at most twice `threads` items ahead."""
    source = iter(items)
    first = list(islice(source, 2))
    if len(first) < 2:
        yield from map(function, first)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[_R]] = [pool.submit(function, item) for item in first]
        waiting += [pool.submit(function, item) for item in islice(source, 2 * threads - 2)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(function, item) for item in islice(source, 1)]
        finally:
            for future in waiting:
                future.cancel()
