"""A threaded pipeline: a chain of functions, each with its own threads and input queue.

`submit` adds an item and `next_result` returns finished ones, in any order. `InputError` in a stage finishes its item;
any other error stops the pipeline, and `next_result` raises it. Threads are daemons, so a stage that hangs in foreign
code cannot block the exit of the process.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from job.errors import HungImageError, InputError
from job.system.watchdog import OnProgress

POLL_S = 0.2
_LONGEST_GAP_S = 1.0
"""The process did not run if the time of its stages was not looked at for longer: SIGSTOP, a frozen cgroup."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step.

    Attributes:
        name: Key in the journal's `seconds`.
        call: Takes a list of 1 to `batch` values and returns as many; `Finished` and `InputError` values finish
            their item.
        threads: Threads that run it.
        batch: Largest number of items in one call.
    """

    name: str
    call: Callable[[list[Any]], Sequence[Any]]
    threads: int
    batch: int = 1


@dataclass(frozen=True)
class Finished:
    """Returned by a stage for an item that needs no further stage."""

    value: Any


@dataclass
class WorkItem:
    """An item in the pipeline.

    Attributes:
        key: Its name in messages.
        value: Result of the last stage.
        seconds: Seconds spent in each stage; a batch is divided by its size.
    """

    key: str
    value: Any
    seconds: dict[str, float] = field(default_factory=dict)


def each(function: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """Make the call of a stage from a function on one item."""

    def call(items: list[Any]) -> list[Any]:
        return [function(item) for item in items]

    return call


class ThreadedPipeline:
    """A running chain of stages."""

    def __init__(
        self, stages: Sequence[Stage], *, capacity: int, item_timeout_s: float, on_progress: OnProgress = lambda: None
    ) -> None:
        """Start the threads.

        Args:
            stages: In order.
            capacity: Maximum number of items in the pipeline.
            item_timeout_s: Maximum time for one call of a stage.
            on_progress: Called after every call of a stage.
        """
        self._stages = tuple(stages)
        self._capacity = capacity
        self._timeout_s = item_timeout_s
        self._on_progress = on_progress
        self._queues: list[queue.Queue[WorkItem | None]] = [queue.Queue() for _ in stages]
        self._results: queue.Queue[WorkItem | BaseException] = queue.Queue()
        self._active: dict[int, tuple[str, list[WorkItem], float]] = {}
        self._ended: list[set[int]] = [set() for _ in stages]
        self._discard_before = 0
        self._checked_s = time.monotonic()
        self._stopped_s = 0.0
        self.inside = 0
        for index, stage in enumerate(self._stages):
            for number in range(stage.threads):
                name = f"{stage.name}-{number}"
                threading.Thread(target=self._work, args=(index,), name=name, daemon=True).start()

    @property
    def has_room(self) -> bool:
        """Whether another item may enter."""
        return self.inside < self._capacity

    @property
    def queued(self) -> dict[str, int]:
        """Items waiting for each stage."""
        return {stage.name: waiting.qsize() for stage, waiting in zip(self._stages, self._queues, strict=True)}

    def submit(self, key: str, value: Any) -> None:
        """Add an item."""
        self.inside += 1
        self._queues[0].put(WorkItem(key, value))

    def next_result(self, timeout_s: float = POLL_S) -> WorkItem | None:
        """A finished item, or None after `timeout_s` without one.

        Its value is that of the last stage, the value of a `Finished`, or the `InputError` that finished it.

        Raises:
            HungImageError: An item exceeded its timeout in a stage.
            BaseException: Raised by a stage, other than `InputError`.
        """
        self._check_hung()
        try:
            result = self._results.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            raise result
        self.inside -= 1
        return result

    def discard_before(self, stage_name: str) -> None:
        """Discard the items that have not reached a stage; the others continue."""
        self._discard_before = [stage.name for stage in self._stages].index(stage_name)

    def finish(self, stage_name: str, grace_s: float) -> list[WorkItem]:
        """Finish the items that have reached a stage, for at most `grace_s`; returns them."""
        self.discard_before(stage_name)
        finished, deadline = [], time.monotonic() + grace_s
        while time.monotonic() < deadline and (self._is_busy_from(self._discard_before) or not self._results.empty()):
            try:
                result = self._results.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if isinstance(result, WorkItem):
                finished.append(result)
        return finished

    def close(self) -> None:
        """Let the threads exit when they are idle."""
        for index, stage in enumerate(self._stages):
            for _ in range(stage.threads):
                self._queues[index].put(None)

    def _is_busy_from(self, index: int) -> bool:
        """Whether a thread of these stages works, or will: an error ends its thread."""
        names = {stage.name for stage in self._stages[index:]}
        queued = any(
            not self._queues[number].empty() and len(self._ended[number]) < self._stages[number].threads
            for number in range(index, len(self._stages))
        )
        return queued or any(name in names for name, _, _ in list(self._active.values()))

    def _work(self, index: int) -> None:
        stage, inbox = self._stages[index], self._queues[index]
        while (items := self._next_batch(inbox, stage.batch)) is not None:
            if index < self._discard_before:
                continue
            begun = time.monotonic()
            self._active[threading.get_ident()] = (stage.name, items, begun - self._stopped_s)
            try:
                values = _call(stage, items)
            except BaseException as exc:  # noqa: BLE001 - `next_result` raises it
                self._results.put(exc)
                self._ended[index].add(threading.get_ident())
                del self._active[threading.get_ident()]
                return
            self._on_progress()
            share = (time.monotonic() - begun) / len(items)
            for item, value in zip(items, values, strict=True):
                item.seconds[stage.name] = share
                self._pass_on(index, item, value)
            del self._active[threading.get_ident()]

    def _pass_on(self, index: int, item: WorkItem, value: Any) -> None:
        is_early = isinstance(value, Finished | InputError)
        item.value = value.value if isinstance(value, Finished) else value
        if is_early or index + 1 == len(self._stages):
            self._results.put(item)
        else:
            self._queues[index + 1].put(item)

    @staticmethod
    def _next_batch(inbox: queue.Queue[WorkItem | None], batch: int) -> list[WorkItem] | None:
        """Wait for one item and add queued ones up to a batch; None to stop the thread."""
        items: list[WorkItem] = []
        item = inbox.get()
        while item is not None:
            items.append(item)
            if len(items) == batch:
                return items
            try:
                item = inbox.get_nowait()
            except queue.Empty:
                return items
        if items:
            inbox.put(None)
            return items
        return None

    def _check_hung(self) -> None:
        now = time.monotonic()
        gap_s = now - self._checked_s
        if gap_s < POLL_S:
            return
        self._checked_s = now
        self._stopped_s += gap_s if gap_s > _LONGEST_GAP_S else 0.0
        for name, items, begun in list(self._active.values()):
            if now - self._stopped_s - begun > self._timeout_s:
                keys = ", ".join(item.key for item in items)
                raise HungImageError(
                    f"{keys}: stage {name} has not ended after {self._timeout_s:.0f} s (--image_timeout_s)"
                )


def _call(stage: Stage, items: list[WorkItem]) -> Sequence[Any]:
    try:
        return stage.call([item.value for item in items])
    except InputError as exc:
        return [exc] * len(items)
