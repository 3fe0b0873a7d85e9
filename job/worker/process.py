"""One of several worker processes of a machine: requests shards through a pipe and reports their results."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

from job.errors import AnnotateError, InterruptedRunError, RunOverError
from job.model.artifact import open_artifact
from job.plan.plan import PlannedShard, read_plan
from job.run.heartbeat import Heartbeat
from job.run.journal import ResultRow
from job.run.options import WorkerOptions
from job.run.run import find_named
from job.storage.open import Address, new_process_id
from job.system.clock import Clock
from job.system.resources import available_memory, return_freed_memory, usable_cpus
from job.system.signals import stopped_by_signals
from job.telemetry.logs import log_python_messages, quiet_libraries
from job.worker.factory import DEFAULT_MEMORY_FRACTION, build_worker
from job.worker.shards import open_shards

NO_SHARD_NOW = "later"
"""The supervisor's answer to a worker that has to leave the next shards to others for now."""
_UNEXPECTED_EXIT_CODE = 70


@dataclass(frozen=True)
class WorkerTask:
    """What a worker process needs to start; it is pickled.

    Attributes:
        addresses: Of input and output.
        artifact_folder: The model.
        artifact_digest: Digest that its manifest must have, or None to accept any.
        run_name: The run.
        options: For all workers together.
        gpus: Names of the GPUs for CUDA_VISIBLE_DEVICES, one a worker; empty on a CPU.
        log_level: Of the messages that the workers send.
        memory: Bytes that were available to all workers together before they started.
    """

    addresses: tuple[Address, Address]
    artifact_folder: Path
    artifact_digest: str | None
    run_name: str
    options: WorkerOptions
    gpus: tuple[str, ...] = ()
    log_level: int = logging.INFO
    memory: int = field(default_factory=available_memory)

    def for_part(self, part: int) -> WorkerTask:
        """The task of one worker: its share of threads and memory, its GPU and its own process ID."""
        options, workers = self.options, self.options.workers
        budget = options.memory_budget or int(self.memory * DEFAULT_MEMORY_FRACTION)
        own = replace(
            options,
            part=part,
            workers=1,
            threads=max(1, (options.threads or usable_cpus()) // workers),
            memory_budget=budget // workers,
            memory_limit=self.memory // workers,
            process_id=new_process_id(),
        )
        gpus = (self.gpus[part % len(self.gpus)],) if self.gpus else ()
        return replace(self, options=own, gpus=gpus)


class _ParentGoneError(InterruptedRunError):
    """The supervisor process has ended."""


class _Channel:
    """The worker's end of the pipe; several threads send through it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, *message: object) -> None:
        try:
            with self._lock:
                self._connection.send(message)
        except OSError as exc:
            raise _ParentGoneError("the supervisor process has ended: this worker stops") from exc

    def shards(self) -> Iterator[PlannedShard | None]:
        """Request shards until none is left; None while this worker has to leave them to others."""
        while True:
            self.send("next")
            try:
                answer = self._connection.recv()
            except (EOFError, OSError) as exc:
                raise _ParentGoneError("the supervisor process has ended: this worker stops") from exc
            if answer is None:
                return
            yield None if answer == NO_SHARD_NOW else answer


class _PipeListener:
    """A listener that reports to the supervisor."""

    def __init__(self, channel: _Channel, heartbeat: Heartbeat, clock: Clock) -> None:
        self._channel = channel
        self._heartbeat = heartbeat
        self._clock = clock
        self._begun_s = clock.monotonic_s()
        self._done = 0

    def add(self, shard: PlannedShard, row: ResultRow) -> None:
        self._done += 1
        self._heartbeat.add(row, self._done / max(self._clock.monotonic_s() - self._begun_s, 1e-3))
        self._channel.send("result", shard.name, row)

    def add_others(self, shard: PlannedShard, results: Iterable[str]) -> None:
        self._channel.send("others", shard.name, dict(Counter(results)))

    def marked(self, shard: PlannedShard) -> None:
        self._channel.send("marked", shard.name)


class _ChannelHandler(logging.Handler):
    def __init__(self, channel: _Channel, part: int | None) -> None:
        super().__init__()
        self._channel = channel
        self.setFormatter(logging.Formatter(f"Worker {part}: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._channel.send("log", record.levelno, self.format(record), getattr(record, "fields", {}))
        except _ParentGoneError:
            return


def run_worker(connection: Connection, task: WorkerTask) -> None:
    """Run the worker process; it exits with a code of job.errors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    channel = _Channel(connection)
    logging.basicConfig(level=task.log_level, handlers=[_ChannelHandler(channel, task.options.part)], force=True)
    quiet_libraries()
    log_python_messages()
    code, text, kind = 0, "", ""
    try:
        _work(channel, task)
    except RunOverError:
        pass
    except AnnotateError as exc:
        code, text, kind = exc.exit_code, str(exc), type(exc).__name__
    except BaseException as exc:
        logging.getLogger(__name__).critical("Unexpected error", exc_info=True)
        code, text = _UNEXPECTED_EXIT_CODE, f"{type(exc).__name__}: {exc}"
    try:
        channel.send("end", code, text, kind)
        connection.close()
    finally:
        os._exit(code)


def _work(channel: _Channel, task: WorkerTask) -> None:
    return_freed_memory()
    options = task.options
    if task.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpus[0]
    source, target = (address.open(options.process_id) for address in task.addresses)
    run = find_named(target, task.run_name)
    plan = read_plan(run)
    assert plan is not None, "the supervisor assigns shards after planning"
    try:
        with Heartbeat(run, options) as heartbeat:
            heartbeat.beat.activity, begun_s = "loading", options.clock.monotonic_s()
            worker = build_worker(run, source, open_artifact(task.artifact_folder, task.artifact_digest), options)
            heartbeat.beat.activity = "working"
            channel.send("loaded", options.clock.monotonic_s() - begun_s, worker.self_check)
            listener = _PipeListener(channel, heartbeat, options.clock)
            with stopped_by_signals(worker.stop):
                worker.work(open_shards(run, plan, channel.shards(), options, listener), listener)
    finally:
        target.close()
