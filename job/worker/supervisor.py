"""Several worker processes on one machine: a supervisor assigns shards to them.

Each worker has its own pipe, so a worker that is killed during a message does not affect the others. The supervisor
requeues the shards of a worker that died; the journal records which of their inputs are done.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from job.errors import (
    AnnotateError,
    ConfigurationError,
    InterruptedRunError,
    UnusableDeviceError,
    UsageError,
    WorkerError,
)
from job.plan.plan import PlannedShard
from job.run.run import Run
from job.system.signals import stopped_by_signals
from job.telemetry.observer import Observer
from job.telemetry.progress_bar import counts_of
from job.worker.process import NO_SHARD_NOW, WorkerTask, run_worker
from job.worker.shards import is_marked

logger = logging.getLogger(__name__)

MAX_RESTARTS = 20
"""Restarts of one worker; as many as an index of the chart's Jobs gets."""
_POLL_S = 0.2
_KILL_AFTER_S = 40.0
_FATAL = {UsageError.exit_code: UsageError, ConfigurationError.exit_code: ConfigurationError}
_UNUSABLE = UnusableDeviceError.__name__

Report = Callable[[Mapping[str, int]], None]
"""Receives counts as `counts_of` gives them; negative counts revoke earlier ones."""


@dataclass
class _Slot:
    """A worker number and the process that has it."""

    number: int
    process: Any = None
    connection: Connection | None = None
    assigned: dict[str, PlannedShard] = field(default_factory=dict)
    reported: dict[str, Counter[str]] = field(default_factory=dict)
    restarts: int = 0
    failure: AnnotateError | None = None
    end: tuple[int, str, str] | None = None

    @property
    def unfinished(self) -> int:
        """Inputs of the assigned shards that have no result."""
        assigned = sum(shard.inputs for shard in self.assigned.values())
        return assigned - sum(self.reported[name].total() for name in self.assigned if name in self.reported)


def work_in_processes(
    task: WorkerTask, run: Run, shards: Sequence[PlannedShard], report: Report, observer: Observer
) -> None:
    """Process shards in `task.options.workers` processes.

    Args:
        task: What a worker needs to start.
        run: The run.
        shards: Shards without a marker, in the order of assignment.
        report: Receives every result.
        observer: Receives the events of the workers.

    Raises:
        ConfigurationError: A worker found an error that every worker would see; the others are terminated.
        UnusableDeviceError: Likewise, that every worker of this node would see.
        InterruptedRunError: A signal arrived, and work is left; the workers have exited in order.
        WorkerError: A worker exceeded `MAX_RESTARTS`, and shards are left.
    """
    stop = threading.Event()
    with stopped_by_signals(stop):
        _Supervisor(task, run, shards, report, observer).work(stop)


class _Supervisor:
    def __init__(
        self, task: WorkerTask, run: Run, shards: Sequence[PlannedShard], report: Report, observer: Observer
    ) -> None:
        self._task = task
        self._run = run
        self._waiting = deque(shards)
        self._report = report
        self._observer = observer
        self._slots = [_Slot(number) for number in range(min(task.options.workers, len(shards)))]
        self._context = multiprocessing.get_context("spawn")
        self._is_given_up = False

    def work(self, stop: threading.Event) -> None:
        """Assign shards until all are done or no worker is left."""
        is_stopping = False
        try:
            for slot in self._slots:
                self._start(slot)
            while connections := {slot.connection: slot for slot in self._slots if slot.connection is not None}:
                if stop.is_set() and not is_stopping:
                    is_stopping = True
                    self._terminate_all()
                for ready in wait(list(connections), timeout=_POLL_S):
                    self._listen(connections[ready], is_stopping)  # type: ignore[index]
            self._raise_worst(is_stopping)
        finally:
            self._kill_all()

    def _start(self, slot: _Slot) -> None:
        here, there = self._context.Pipe()
        slot.connection, slot.end = here, None
        slot.process = self._context.Process(
            target=run_worker, args=(there, self._task.for_part(slot.number)), name=f"worker-{slot.number}", daemon=True
        )
        slot.process.start()
        there.close()

    def _listen(self, slot: _Slot, is_stopping: bool) -> None:
        assert slot.connection is not None
        try:
            message = slot.connection.recv()
        except (EOFError, OSError):
            self._on_exit(slot, is_stopping)
            return
        if message[0] not in {"log", "next"}:  # a worker that waits for a shard asks again and again
            self._task.options.watchdog.touch()
        match message:
            case ("next",):
                self._assign(slot)
            case ("loaded", seconds, self_check):
                self._observer.model_loaded(seconds)
                self._observer.model_checked(self_check)
            case ("result", shard_name, row):
                self._observer.image_finished(row.result, row.seconds)
                self._add(slot, shard_name, counts_of(row))
            case ("others", shard_name, results):
                self._add(slot, shard_name, results)
            case ("marked", shard_name):
                slot.assigned.pop(shard_name, None)
                slot.reported.pop(shard_name, None)
            case ("log", level, text, fields):
                logger.log(level, "%s", text, extra={"fields": {**fields, "worker": slot.number}})
            case ("end", code, text, kind):
                slot.end = (code, text, kind)

    def _add(self, slot: _Slot, shard_name: str, counts: Mapping[str, int]) -> None:
        slot.reported.setdefault(shard_name, Counter()).update(counts)
        self._report(counts)

    def _assign(self, slot: _Slot) -> None:
        """Answer with a shard, or that it has to ask again, or that none is left."""
        assert slot.connection is not None
        answer: PlannedShard | str | None = None
        if self._waiting and self._is_within_share(slot, self._waiting[0]):
            answer = self._waiting.popleft()
            slot.assigned[answer.name] = answer
            self._task.options.watchdog.touch()
        elif self._waiting:
            answer = NO_SHARD_NOW
        try:
            slot.connection.send(answer)
        except OSError:
            return  # it has died; `_listen` sees its closed pipe next

    def _is_within_share(self, slot: _Slot, shard: PlannedShard) -> bool:
        """Whether a worker that reads ahead leaves enough to the others, some of which may still load the model.

        With another shard it has at most its part of all unfinished inputs, rounded up. One that has nothing to do may
        take any shard.
        """
        if slot.unfinished <= 0:
            return True
        others = [each for each in self._slots if each.connection is not None and each is not slot]
        needed = (slot.unfinished + shard.inputs - 1) * len(others) - sum(each.unfinished for each in others)
        needed += shard.inputs
        for one in self._waiting:
            if needed <= 0:
                break
            needed -= one.inputs
        return needed <= 0

    def _on_exit(self, slot: _Slot, is_stopping: bool) -> None:
        """Requeue the shards of a worker that has exited, and restart it if needed."""
        assert slot.connection is not None
        slot.connection.close()
        slot.connection = None
        slot.process.join()
        self._requeue(slot)
        code, text, kind = slot.end or (slot.process.exitcode, "", "")
        if code == 0:
            self._restart_for_requeued_shards(slot, is_stopping)
            return
        reason = text or (f"killed by signal {-code}" if code < 0 else f"exit code {code}")
        slot.failure = _failure_of(code, kind)(f"worker {slot.number}: {reason}")
        is_stopping |= self._is_given_up  # the others are terminated, which is no reason to restart them
        if _is_fatal(slot.failure):
            self._is_given_up = True
            self._waiting.clear()
            self._terminate_all()
        elif not is_stopping and slot.restarts < MAX_RESTARTS:
            slot.restarts += 1
            logger.warning("Worker %d has exited (%s): restarting it", slot.number, reason)
            self._start(slot)
        elif not is_stopping:
            logger.error(
                "Worker %d has exited %d times (%s): not restarting it", slot.number, slot.restarts + 1, reason
            )

    def _restart_for_requeued_shards(self, slot: _Slot, is_stopping: bool) -> None:
        """Restart a worker that finished before another one died and left shards."""
        slot.failure = None
        if self._waiting and not is_stopping and slot.restarts < MAX_RESTARTS:
            slot.restarts += 1
            self._start(slot)

    def _requeue(self, slot: _Slot) -> None:
        """Requeue the assigned shards that have no marker, and revoke their reported results."""
        lost = [shard for shard in slot.assigned.values() if not is_marked(self._run, shard)]
        self._waiting.extendleft(reversed(lost))
        for shard in lost:
            reported = slot.reported.get(shard.name, Counter())
            self._report({name: -count for name, count in reported.items()})
        slot.assigned, slot.reported = {}, {}

    def _raise_worst(self, is_stopping: bool) -> None:
        failures = [slot.failure for slot in self._slots if slot.failure is not None]
        fatal = [failure for failure in failures if _is_fatal(failure)]
        if fatal:
            raise fatal[0]
        if is_stopping and self._waiting:
            raise InterruptedRunError("interrupted with work left: rerun the same command to resume")
        if self._waiting:
            lost = WorkerError(f"{len(self._waiting)} shards are left and no worker: rerun the same command to resume")
            raise max(failures, key=lambda failure: failure.exit_code, default=lost)

    def _terminate_all(self) -> None:
        for slot in self._slots:
            if slot.connection is not None:
                slot.process.terminate()

    def _kill_all(self) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.is_alive():
                slot.process.kill()
                slot.process.join(_KILL_AFTER_S)


def _failure_of(code: int, kind: str) -> type[AnnotateError]:
    """The error of a worker that ended with this code and kind of error."""
    if kind == _UNUSABLE:
        return UnusableDeviceError
    return _FATAL.get(code, WorkerError if code != InterruptedRunError.exit_code else InterruptedRunError)


def _is_fatal(failure: AnnotateError) -> bool:
    """Whether every worker of this node would fail so."""
    return failure.exit_code in _FATAL or isinstance(failure, UnusableDeviceError)
