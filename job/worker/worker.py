"""A worker: walks its shards through the pipeline, journals what is stored, marks what is complete.

One thread conducts; the pipeline's threads never touch the run. The pipeline is not drained between shards: the
next one is taken up while the last images of the one before are on their way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from job.errors import (
    AnnotateError,
    HungImageError,
    InputError,
    InterruptedRunError,
    ModelError,
    UnreadableInputError,
)
from job.pipeline.executor import ThreadedPipeline, WorkItem
from job.pipeline.memory import ResidentBudget
from job.pipeline.order import LAST_STAGES
from job.pipeline.stages import ModelFailedInputError, RefusedInputError
from job.plan.plan import PlannedInput
from job.run.journal import FAILED, ResultRow
from job.run.options import WorkerOptions
from job.run.run import Run
from job.telemetry.observer import Load
from job.worker.shards import Listener, OpenShard, write_marker

logger = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW: dict[type[InputError], int] = {
    RefusedInputError: 20,
    ModelFailedInputError: 20,
    UnreadableInputError: 100,
}
"""So many failures of one kind without a success between them mean that the store or the model fails, not the images.

A damaged directory makes many neighbouring files unreadable. Each of them is retried for 10 s first, so 100 of them
take four readers about as long as an unreachable store is retried.
"""
STOP_GRACE_S = 20.0
"""How long a worker that is told to stop lets the images behind the model come to their end."""
KILLER_REASON = "ended the worker twice"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Who makes the outputs; goes into every row."""

    worker: str
    artifact: str
    precision: str
    provider: str


@dataclass(frozen=True)
class _OnItsWay:
    shard: OpenShard
    resident_bytes: int


class Worker:
    """Conducts the pipeline over shards.

    Attributes:
        stop: Set it, from any thread or signal handler, to end `work` in order.
    """

    def __init__(
        self, run: Run, flow: ThreadedPipeline, resident: ResidentBudget, options: WorkerOptions, who: Provenance
    ) -> None:
        self._run = run
        self._flow = flow
        self._resident = resident
        self._options = options
        self._who = who
        self._on_its_way: dict[str, _OnItsWay] = {}
        self._open: list[OpenShard] = []
        self._failures_in_a_row: dict[type[InputError], int] = {}
        self._journaled_s = options.clock.monotonic_s()
        self.stop = threading.Event()

    def load(self) -> Load:
        """What is on its way."""
        return Load(self._flow.queued, self._resident.used)

    def work(self, shards: Iterable[OpenShard], listener: Listener) -> None:
        """Do every shard.

        Args:
            shards: Taken up one by one, when the pipeline has room.
            listener: Told what becomes of them.

        Raises:
            InterruptedRunError: `stop` was set and work is left, or storage is out of reach.
            WorkerError: The device, the model or an image has stopped this worker.
        """
        self._listener = listener
        is_all_taken_up = False
        try:
            for shard in shards:
                self._open.append(shard)
                self._feed(shard)
                self._mark_if_complete(shard)
            is_all_taken_up = True
            self._drain()
        except HungImageError:
            self._write_journals()  # and no leave row: it counts as an image that ends workers
            raise
        except AnnotateError:
            self._leave_in_order()
            if not (self.stop.is_set() and is_all_taken_up and not self._open):
                raise
        finally:
            self._flow.close()

    def _feed(self, shard: OpenShard) -> None:
        for planned in shard.pending:
            if planned.json in shard.results:
                continue
            if not shard.is_serial:
                self._admit(shard, planned)
                continue
            self._drain()
            if shard.is_crash_suspect(planned):
                self._fail_crasher(shard, planned)
            else:
                shard.journal.intend(planned.json)
                self._admit(shard, planned)
                self._drain()

    def _admit(self, shard: OpenShard, planned: PlannedInput) -> None:
        """Let an input into the pipeline as soon as there is room."""
        self._check_stop()
        size = None
        while not self._flow.has_room or (size := self._resident.try_admit()) is None:
            self._collect()
        self._on_its_way[planned.json] = _OnItsWay(shard, size)
        self._flow.submit(planned.json, planned)

    def _drain(self) -> None:
        while self._on_its_way:
            self._collect()

    def _fail_crasher(self, shard: OpenShard, planned: PlannedInput) -> None:
        """Book an image that has ended workers twice, once no other worker can be at it any more."""
        clock = self._options.clock
        age_s = self._run.store.now_s() - shard.latest_intent_s(planned)
        deadline_s = clock.monotonic_s() + self._options.image_timeout_s - age_s
        if clock.monotonic_s() < deadline_s:
            logger.warning("%s %s: waiting until no worker can be at it any more", planned.json, KILLER_REASON)
        while clock.monotonic_s() < deadline_s:
            self._collect()
        self._sync_journal(shard)
        if planned.json not in shard.results:
            self._record(shard, ResultRow(json=planned.json, result=FAILED, reason=KILLER_REASON))

    def _collect(self) -> None:
        """Take one result if there is one, and do what is due."""
        self._check_stop()
        ticket = self._flow.next_result()
        if ticket is not None:
            self._on_result(ticket)
        if self._options.clock.monotonic_s() - self._journaled_s >= self._options.journal_interval_s:
            self._journal_now()

    def _on_result(self, ticket: WorkItem) -> None:
        on_its_way = self._on_its_way.pop(ticket.key)
        self._resident.release(on_its_way.resident_bytes)
        if isinstance(ticket.value, InputError):
            row = ResultRow(json=ticket.key, result=FAILED, reason=str(ticket.value))
        else:
            row = ticket.value
        self._count_failures(ticket.value)
        seconds = {name: round(spent, 4) for name, spent in ticket.seconds.items()}
        self._record(on_its_way.shard, msgspec.structs.replace(row, seconds=seconds))

    def _record(self, shard: OpenShard, row: ResultRow) -> None:
        who = self._who
        row = msgspec.structs.replace(
            row, worker=who.worker, artifact=who.artifact, precision=who.precision, provider=who.provider
        )
        if row.result == FAILED:
            key = f"{self._run.spec.input_url}/{row.json}"
            logger.warning(row.reason if key in row.reason else f"{key}: {row.reason}")
        if shard.add(row):
            self._listener.add(shard.shard, row)
        self._mark_if_complete(shard)

    def _count_failures(self, value: object) -> None:
        """Tell a world that fails from images that fail."""
        kind = type(value)
        if not isinstance(value, InputError) or kind not in MAX_FAILURES_IN_A_ROW:
            self._failures_in_a_row.clear()
            return
        self._failures_in_a_row[kind] = self._failures_in_a_row.get(kind, 0) + 1
        if self._failures_in_a_row[kind] < MAX_FAILURES_IN_A_ROW[kind]:
            return
        message = f"{MAX_FAILURES_IN_A_ROW[kind]} images in a row failed, the last with: {value}"
        raise ModelError(message) if kind is ModelFailedInputError else InterruptedRunError(message)

    def _mark_if_complete(self, shard: OpenShard) -> None:
        """Mark a shard as soon as it is complete, and leave it once nothing of it is on its way.

        Others may have completed it while images of it are on their way here: their outputs will be stored, so
        their rows have to be too.
        """
        if not shard.is_complete or shard not in self._open:
            return
        if any(item.shard is shard for item in self._on_its_way.values()):
            self._mark(shard)
            return
        shard.journal.leave()
        self._mark(shard)
        self._open.remove(shard)  # last: until its marker is written, `work` must not end as if all were done

    def _mark(self, shard: OpenShard) -> None:
        if not shard.is_marked:
            write_marker(self._run, shard, self._options.process_id)
            self._listener.marked(shard.shard)

    def _write_journals(self) -> None:
        for shard in self._open:
            shard.journal.write()

    def _journal_now(self) -> None:
        self._write_journals()
        for shard in list(self._open):
            self._sync_journal(shard)
        self._journaled_s = self._options.clock.monotonic_s()

    def _sync_journal(self, shard: OpenShard) -> None:
        """Drop what others have done of a shard in hand; what is on its way here is done twice."""
        self._listener.add_others(shard.shard, [row.result for row in shard.learn()])
        self._mark_if_complete(shard)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise InterruptedRunError("interrupted with work left: the same command goes on with it")

    def _leave_in_order(self) -> None:
        """Let what the model has answered come to its end, and journal it."""
        self._options.watchdog.touch()
        for ticket in self._flow.finish(LAST_STAGES, STOP_GRACE_S):
            if isinstance(ticket.value, ResultRow):
                self._on_result(ticket)
        for shard in self._open:
            shard.journal.leave()
