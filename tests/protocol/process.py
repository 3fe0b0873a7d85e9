"""A simulated process: the real `annotate` on a `WorldStore`, without the threads of pipeline and heartbeat.

The pipeline processes one image at a time and stores it by the real last stage. The bytes of mask and JSON, and the
row, have a tag of the options and the precision that made them.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import pytest

import job.plan.planner
import job.run.run
import job.system.threads
import job.worker.runner
from job.errors import InputError
from job.formats.instance_table import InstanceRow, encode_rows
from job.pipeline.executor import POLL_S, WorkItem
from job.pipeline.items import EncodedItem, LoadedItem, StoredItem
from job.pipeline.memory import ResidentBudget
from job.pipeline.stages import Annotator, AnnotatorIO
from job.plan.lookup import look_up
from job.plan.plan import PlannedInput
from job.plan.sharding import Sizing
from job.run.end_watch import EndWatch
from job.run.heartbeat import Heartbeat
from job.run.journal import ANNOTATED, SKIPPED, ResultRow
from job.run.options import WorkerOptions
from job.run.run import Run
from job.run.spec import RunSpec
from job.storage.store import Fetched
from job.telemetry.progress_bar import Tally
from job.worker.runner import AnnotateRequest, annotate
from job.worker.worker import Provenance, Worker
from tests.protocol.world import Actor, World, WorldStore

CAPACITY = 2
PART_SHARDS = 2
IMAGE_S = 8.0
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Processes that share a run.

    Attributes:
        name: Of the pool.
        num_indexes: Number of processes.
        order: Order of the shards.
        precision: Precision of the model, which makes the outputs differ from those of other pools.
    """

    name: str = "gpu"
    num_indexes: int = 1
    order: Literal["forward", "backward"] = "forward"
    precision: str = "fp16"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A command; its processes restart whenever they die.

    Attributes:
        run_name: `--run`, or None.
        threshold: The option in which runs differ.
        override: Whether all inputs are annotated again.
        supersede: `--supersede`.
        pools: Its processes.
        at_s: Start time.
        is_restarted: Whether its processes restart when they die, as in Kubernetes.
        shard_size: Inputs in a shard.
        bad: Inputs that cannot be annotated.
    """

    run_name: str | None = "r"
    threshold: float = 0.4
    override: bool = False
    supersede: bool = False
    pools: tuple[Pool, ...] = (Pool(),)
    at_s: float = 0.0
    is_restarted: bool = True
    shard_size: int = 2
    bad: frozenset[str] = frozenset()

    def spec(self) -> RunSpec:
        """The options of the run."""
        return RunSpec(
            input_url="world://in",
            prompts=("car",),
            confidence_threshold=self.threshold,
            annotation_date="2026-01-31",
            image_mode="copy",
            override=self.override,
            override_reviewed=False,
            max_image_pixels=1,
            limit=None,
            model_id="m",
            checkpoint_sha256="0",
        )


@dataclass(frozen=True)
class WorkerId:
    """An index of a pool of a launch; successive processes have the same worker ID."""

    launch: Launch
    pool: Pool
    index: int

    def body(self, world: World, actor: Actor) -> Callable[[], object]:
        """The program of a process with this worker ID."""
        options = WorkerOptions(
            device="cpu",
            pool=self.pool.name,
            index=self.index,
            num_indexes=self.pool.num_indexes,
            order=self.pool.order,
            shard_size=self.launch.shard_size,
            max_failed_fraction=1.0,
            supersede=self.launch.supersede,
            process_id=f"{actor.number:04d}attempt",
            clock=_ActorClock(actor, self),
        )
        request = AnnotateRequest(
            source=WorldStore(world, actor, "in"),
            target=WorldStore(world, actor, "out"),
            artifact=None,  # type: ignore[arg-type]
            spec=self.launch.spec(),
            is_date_given=False,
            run_name=self.launch.run_name,
            options=options,
        )
        return lambda: annotate(request, Tally())


@dataclass(frozen=True)
class _ActorClock:
    actor: Actor
    worker_id: WorkerId

    def monotonic_s(self) -> float:
        return self.actor.monotonic_s()

    def boot_s(self) -> float:
        return self.actor.boot_s()

    def sleep(self, seconds: float) -> None:
        self.actor.sleep(seconds)


def tag_of(threshold: float, precision: str) -> str:
    """The tag of the options in outputs."""
    return f"{threshold}-{precision}"


def mask_digest(npz: bytes) -> str:
    """Digest of a mask as in the journal."""
    return hashlib.sha256(npz).hexdigest()


class _SequentialPipeline:
    """Replaces `job.pipeline.executor.ThreadedPipeline`: one image at a time, `IMAGE_S` for each."""

    def __init__(self, run: Run, source: WorldStore, clock: _ActorClock) -> None:
        self._run, self._source, self._clock = run, source, clock
        io = AnnotatorIO(source, run, EndWatch(run, clock).check)
        self._annotator = Annotator(io, None, None, None)  # type: ignore[arg-type]
        self._waiting: deque[WorkItem] = deque()

    @property
    def has_room(self) -> bool:
        return len(self._waiting) < CAPACITY

    @property
    def inside(self) -> int:
        return len(self._waiting)

    def submit(self, key: str, value: PlannedInput) -> None:
        self._waiting.append(WorkItem(key, value))

    def next_result(self) -> WorkItem | None:
        if not self._waiting:
            self._clock.sleep(POLL_S)
            return None
        self._clock.sleep(IMAGE_S)
        item = self._waiting[0]
        try:
            item.value = self._do(item.value)
        except InputError as exc:
            item.value = exc
        return self._waiting.popleft()

    def finish(self, stage_name: str, grace_s: float) -> list[WorkItem]:
        return []

    def close(self) -> None:
        pass

    def _do(self, planned: PlannedInput) -> StoredItem:
        found = look_up(planned, self._source, self._run)
        if found.is_done:
            return StoredItem(ResultRow(json=planned.json, result=SKIPPED))
        if found.image is None or planned.json in self._clock.worker_id.launch.bad:
            raise InputError("bad")
        tag = tag_of(self._run.spec.confidence_threshold, self._clock.worker_id.pool.precision)
        npz = f"npz {planned.json} {tag}".encode()
        row = ResultRow(json=planned.json, result=ANNOTATED, scores={tag: [1.0]}, mask_sha256=mask_digest(npz))
        loaded = LoadedItem(planned, found.image, Fetched(b"image"), None, None)  # type: ignore[arg-type]
        lines = encode_rows([InstanceRow(json=planned.json, image=found.image, width=1, height=1, class_name=tag)])
        json = f"json {planned.json} {tag}".encode()
        return self._annotator.write(EncodedItem(loaded, npz, json, None, row, lines))


class _SteppedHeartbeat(Heartbeat):
    """Writes heartbeats when the simulated process stops, instead of in a thread."""

    def __init__(self, run: Run, options: WorkerOptions) -> None:
        super().__init__(run, options)
        assert isinstance(options.clock, _ActorClock)
        self._actor = options.clock.actor
        self._thread = self  # type: ignore[assignment]

    def start(self) -> None:
        self._actor.first_beat()
        self._actor.beat = self._write

    def join(self, timeout: float | None = None) -> None:
        self._actor.beat = None


def _build_worker(run: Run, source: WorldStore, artifact: None, options: WorkerOptions) -> Worker:
    clock = options.clock
    assert isinstance(clock, _ActorClock)
    pipeline: Any = _SequentialPipeline(run, source, clock)
    made_by = Provenance(worker=options.process_id, artifact="", precision=clock.worker_id.pool.precision, provider="")
    worker = Worker(run, pipeline, ResidentBudget(1 << 20, 1), options, made_by)
    clock.actor.on_term = worker.stop.set
    return worker


class _InlineExecutor:
    """Replaces a thread pool: `submit` makes the call."""

    def __init__(self, threads: int) -> None:
        pass

    def __enter__(self) -> _InlineExecutor:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, function: Callable[..., _T], *arguments: object) -> Future[_T]:
        future: Future[_T] = Future()
        future.set_result(function(*arguments))
        return future


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """Make `annotate` run in a simulation: no threads, no model, no logging."""
    nonces = count()
    logging.disable(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.run.run, "time", SimpleNamespace(time=lambda: world.now_s))
        secrets = SimpleNamespace(token_hex=lambda size: f"{next(nonces):0{2 * size}x}")
        patch.setattr(job.plan.planner, "secrets", secrets)
        patch.setattr(job.plan.planner, "Sizing", partial(Sizing, part_shards=PART_SHARDS))
        patch.setattr(job.system.threads, "ThreadPoolExecutor", _InlineExecutor)
        patch.setattr(job.worker.runner, "check_session", lambda *arguments: None)
        patch.setattr(job.worker.runner, "check_memory", lambda *arguments: None)
        patch.setattr(job.worker.runner, "return_freed_memory", lambda: None)
        patch.setattr(job.worker.runner, "build_worker", _build_worker)
        patch.setattr(job.worker.runner, "Heartbeat", _SteppedHeartbeat)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def worker_ids_of(launches: Iterable[Launch]) -> list[WorkerId]:
    """The worker IDs of all pools."""
    return [
        WorkerId(launch, pool, index)
        for launch in launches
        for pool in launch.pools
        for index in range(pool.num_indexes)
    ]
