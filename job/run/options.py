"""Operational options of a worker; they never change a byte of the output.

Options that change bytes or the selection are in `job.run.spec.RunSpec`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from job.model.self_check import SelfCheckMode
from job.model.session import Device, Runtime
from job.storage.open import new_process_id
from job.system.clock import SYSTEM_CLOCK, Clock
from job.system.watchdog import Watchdog

Order = Literal["forward", "backward"]
OverlayFormat = Literal["jpeg", "webp", "png"]


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Operational options of one process; the processes of a run may differ in them.

    Attributes:
        pool: Name of the pool that this process belongs to.
        index: Its index in the pool, 0 to num_indexes - 1.
        num_indexes: Number of indexes in the pool.
        part: Number of this worker process among those of the index, or None for a single process.
        workers: Number of worker processes of the index.
        order: `backward` mirrors the order: index 0 owns the last block and starts at its end.
        shard_size: Inputs in a shard if this process plans; None for the default.
        device: Device of the model.
        runtime: Library that runs the model.
        batch_size: GPU: images in one call of the model. CPU: images in flight. None for the default.
        threads: Threads of the model on a CPU; None for all processors that the cgroup allows.
        memory_budget: Bytes for images between the stages; None for 60 % of the memory that the model leaves.
        memory_limit: Bytes that this process may use; None for all available memory.
        journal_interval_s: Seconds between two parts of the journal.
        self_check: When to compare the model's answers with its reference; see `job.model.self_check`.
        model_cache: Folder of fetched models, passed self-checks and compiled graphs; None for the default.
        device_retry_s: Seconds for which a device that does not respond is retried.
        image_timeout_s: Maximum seconds for one stage of one image.
        max_failed_fraction: Maximum failed inputs of a successful run, as a fraction of all inputs listed.
        supersede: Whether to end an older run that is still running.
        visualize: Number of images at the start of the run's plan that get an overlay, or all, or None for none.
        overlay_format: File format of overlays.
        overlay_side: Maximum of height and width of overlays, in pixels; None for the size of the image.
        process_id: Random ID of this process.
        clock: Clock of this process.
        watchdog: Touched on every progress.
    """

    device: Device
    runtime: Runtime = "onnx"
    batch_size: int | None = None
    threads: int | None = None
    pool: str = "local"
    index: int = 0
    num_indexes: int = 1
    part: int | None = None
    workers: int = 1
    order: Order = "forward"
    shard_size: int | None = None
    memory_budget: int | None = None
    memory_limit: int | None = None
    journal_interval_s: float = 30.0
    self_check: SelfCheckMode = "cached"
    model_cache: Path | None = None
    device_retry_s: float = 0.0
    image_timeout_s: float = 600.0
    max_failed_fraction: float = 0.05
    supersede: bool = False
    visualize: int | Literal["all"] | None = None
    overlay_format: OverlayFormat = "jpeg"
    overlay_side: int | None = None
    process_id: str = field(default_factory=new_process_id)
    clock: Clock = SYSTEM_CLOCK
    watchdog: Watchdog = field(default_factory=Watchdog, compare=False)

    @property
    def worker_id(self) -> str:
        """ID of this worker, which a replacement process keeps: `gpu-00003`, `local-00000.2`."""
        part = "" if self.part is None else f".{self.part}"
        return f"{self.pool}-{self.index:05d}{part}"
