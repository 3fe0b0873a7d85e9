"""Options of a worker that change how fast, where and how it is told, but never a byte of the output.

What changes bytes or selection is `job.run.spec.RunSpec`.
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


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How this process works.

    Attributes:
        pool: Name of the pool that this process belongs to.
        index: Its index in the pool, 0 to num_indexes - 1.
        num_indexes: Processes in the pool.
        part: Number of this process among those that share the index on one machine, or None.
        workers: Processes that share the index on this machine.
        order: `backward` mirrors everything: the last block belongs to index 0, and is walked from its end.
        shard_size: Inputs in a shard, where this process plans; None to choose.
        device: What the model runs on.
        runtime: Which library runs it.
        batch_size: Images in one call of the model on an accelerator, images in flight on a CPU; None to choose.
        threads: Threads of the model on a CPU; None for all processors of the cgroup.
        memory_budget: Bytes for images between the stages; None for 60 % of what the model leaves.
        memory_limit: Bytes that this process may take; None for all that is available.
        journal_interval_s: Seconds between two parts of the journal.
        self_check: When the answers of the model are compared with its reference; see `job.model.self_check`.
        model_cache: Folder of fetched models and remembered self-checks; None for the default.
        device_retry_s: How long a device that does not answer is tried.
        image_timeout_s: Longest time for one stage of one image.
        max_failed_fraction: Failed inputs, as a fraction of all inputs listed, that still are a success.
        supersede: Whether to end an older run that is still at work.
        visualize: Whether to draw overlays.
        process_id: Random name of this process.
        clock: Its time.
        watchdog: Told of every step forward.
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
    visualize: bool = False
    process_id: str = field(default_factory=new_process_id)
    clock: Clock = SYSTEM_CLOCK
    watchdog: Watchdog = field(default_factory=Watchdog, compare=False)

    @property
    def worker_id(self) -> str:
        """What a process of the run is known by, whoever has it at the time: `gpu-00003`, `local-00000.2`."""
        part = "" if self.part is None else f".{self.part}"
        return f"{self.pool}-{self.index:05d}{part}"
