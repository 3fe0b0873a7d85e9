"""A worker processes shards in the pipeline, journals what is stored and marks complete shards.

A single coordinator thread owns the run state; pipeline threads never access it. The pipeline is not drained between
shards: the worker opens the next shard while images of the previous one are in flight.
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
from job.pipeline.items import StoredItem
from job.pipeline.memory import ResidentBudget
from job.pipeline.order import LAST_STAGES
from job.pipeline.stages import ModelFailedInputError, RefusedInputError
from job.plan.plan import PlannedInput
from job.run.journal import FAILED, ResultRow
from job.run.options import WorkerOptions
from job.run.run import Run
from job.telemetry.logs import log_image
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
"""Time that a stopping worker gives to images that have passed the model."""
MAX_ROW_BYTES = 16 << 20
"""Rows of the instance table that wait for the journal; more than these, and the journal is written at once."""
_ROW_SHARE = 0.125
"""The same as a share of the resident bytes, which decides where the budget is small."""
KILLER_REASON = "ended the worker twice"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The process and the model that make the outputs; stored in every row."""

    worker: str
    artifact: str
    precision: str
    provider: str
    runtime: str = ""
    self_check: str = ""


@dataclass(frozen=True)
class _InFlight:
    shard: OpenShard
    resident_bytes: int


class Worker:
    """Coordinates the pipeline over shards.

    Attributes:
        stop: Any thread or signal handler sets it to stop `work` in order.
    """

    def __init__(
        self,
        run: Run,
        pipeline: ThreadedPipeline,
        resident: ResidentBudget,
        options: WorkerOptions,
        made_by: Provenance,
    ) -> None:
        self._run = run
        self._pipeline = pipeline
        self._resident = resident
        self._options = options
        self._made_by = made_by
        self._in_flight: dict[str, _InFlight] = {}
        self._open: list[OpenShard] = []
        self._failures_in_a_row: dict[type[InputError], int] = {}
        self._journaled_s = options.clock.monotonic_s()
        self._max_row_bytes = min(MAX_ROW_BYTES, int(resident.limit_bytes * _ROW_SHARE))
        self._row_bytes = 0
        self.stop = threading.Event()

    @property
    def self_check(self) -> str:
        """Digest of the self-check that this worker passed, or an empty string."""
        return self._made_by.self_check

    def load(self) -> Load:
        """Images and bytes in flight."""
        return Load(self._pipeline.queued, self._resident.used)

    def work(self, shards: Iterable[OpenShard | None], listener: Listener) -> None:
        """Process every shard.

        Args:
            shards: Opened one after the other, when the pipeline has room; None where there is none for now.
            listener: Receives the results.

        Raises:
            InterruptedRunError: `stop` was set and work is left, or the store is unreachable.
            WorkerError: The device or the model failed, or an image timed out.
        """
        self._listener = listener
        are_all_open = False
        try:
            for shard in shards:
                if shard is None:
                    self._collect()
                    continue
                self._open.append(shard)
                self._feed(shard)
                self._mark_if_complete(shard)
            are_all_open = True
            self._drain()
        except HungImageError:
            self._write_journals()  # without a leave row: the image counts as one that crashes workers
            raise
        except AnnotateError:
            self._leave_in_order()
            if not (self.stop.is_set() and are_all_open and not self._open):
                raise
        finally:
            self._pipeline.close()

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
        """Submit an input as soon as the pipeline has room."""
        self._check_stop()
        size = None
        while not self._pipeline.has_room or (size := self._resident.try_admit()) is None:
            if self._row_bytes and not self._in_flight:  # only rows that wait for the journal hold memory
                self._write_journals()
            else:
                self._collect()
        self._in_flight[planned.json] = _InFlight(shard, size)
        self._pipeline.submit(planned.json, planned)

    def _drain(self) -> None:
        while self._in_flight:
            self._collect()

    def _fail_crasher(self, shard: OpenShard, planned: PlannedInput) -> None:
        """Fail an image that crashed two workers, once no other worker can still process it."""
        clock = self._options.clock
        age_s = max(0.0, self._run.store.now_s() - shard.latest_intent_s(planned))  # a clock may be set back
        deadline_s = clock.monotonic_s() + self._options.image_timeout_s - age_s
        if clock.monotonic_s() < deadline_s:
            logger.warning("%s %s: waiting until no other worker can still process it", planned.json, KILLER_REASON)
        while clock.monotonic_s() < deadline_s:
            self._collect()
        self._sync_journal(shard)
        if planned.json not in shard.results:
            self._record(shard, ResultRow(json=planned.json, result=FAILED, reason=KILLER_REASON))

    def _collect(self) -> None:
        """Take one result if there is one; write the journal when it is due."""
        self._check_stop()
        item = self._pipeline.next_result()
        if item is not None:
            self._on_result(item)
        if self._options.clock.monotonic_s() - self._journaled_s >= self._options.journal_interval_s:
            self._journal_now()
        elif self._row_bytes >= self._max_row_bytes:
            self._write_journals()

    def _on_result(self, item: WorkItem) -> None:
        in_flight_item = self._in_flight.pop(item.key)
        self._resident.release(in_flight_item.resident_bytes)
        if isinstance(item.value, InputError):
            stored = StoredItem(ResultRow(json=item.key, result=FAILED, reason=str(item.value)))
        else:
            stored = item.value
        self._count_failures(item.value)
        seconds = {name: round(spent, 4) for name, spent in item.seconds.items()}
        row = msgspec.structs.replace(stored.row, seconds=seconds)
        self._record(in_flight_item.shard, row, stored.instance_lines)

    def _record(self, shard: OpenShard, row: ResultRow, instance_lines: bytes = b"") -> None:
        made_by = self._made_by
        row = msgspec.structs.replace(
            row,
            worker=made_by.worker,
            artifact=made_by.artifact,
            precision=made_by.precision,
            provider=made_by.provider,
            runtime=made_by.runtime,
            self_check=made_by.self_check,
        )
        if row.result == FAILED:
            key = f"{self._run.spec.input_url}/{row.json}"
            logger.warning(row.reason if key in row.reason else f"{key}: {row.reason}")
        log_image(row)
        if shard.add(row, instance_lines):
            self._listener.add(shard.shard, row)
        self._count_row_bytes()
        self._mark_if_complete(shard)

    def _count_failures(self, value: object) -> None:
        """Stop when the store or the model fails rather than single images."""
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
        """Mark a complete shard, and close it when none of its images is in flight.

        Another process may complete the shard while images of it are in flight here. Their outputs will be stored,
        so their rows must be stored too.
        """
        if not shard.is_complete or shard not in self._open:
            return
        if any(item.shard is shard for item in self._in_flight.values()):
            self._mark(shard)
            return
        shard.journal.leave()
        self._mark(shard)
        self._open.remove(shard)  # last: `work` must not succeed before the marker is written

    def _mark(self, shard: OpenShard) -> None:
        if not shard.is_marked:
            write_marker(self._run, shard, self._options.process_id)
            self._listener.marked(shard.shard)
        self._count_row_bytes()

    def _write_journals(self) -> None:
        for shard in self._open:
            shard.journal.write()
        self._count_row_bytes()

    def _count_row_bytes(self) -> None:
        """Hold the buffered rows of the instance table as resident bytes."""
        buffered = sum(shard.journal.instance_bytes for shard in self._open)
        self._resident.hold(buffered - self._row_bytes)
        self._row_bytes = buffered

    def _journal_now(self) -> None:
        self._write_journals()
        for shard in list(self._open):
            self._sync_journal(shard)
        self._journaled_s = self._options.clock.monotonic_s()

    def _sync_journal(self, shard: OpenShard) -> None:
        """Skip inputs that other processes have done; images in flight here are done twice."""
        self._listener.add_others(shard.shard, [row.result for row in shard.read_others()])
        self._mark_if_complete(shard)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise InterruptedRunError("interrupted with work left: rerun the same command to resume")

    def _leave_in_order(self) -> None:
        """Finish the images that have passed the model, and journal them."""
        self._options.watchdog.touch()
        for item in self._pipeline.finish(LAST_STAGES, STOP_GRACE_S):
            if isinstance(item.value, StoredItem):
                self._on_result(item)
        for shard in self._open:
            shard.journal.leave()
