"""Options of a worker that change how fast, where and how it is told, but never a byte of the output.

What changes bytes or selection is `job.run.RunSpec`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Literal

Device = Literal["cuda", "cpu"]
Runtime = Literal["onnx", "torch"]


def new_attempt() -> str:
    """A random name for this process: 12 hex digits."""
    return secrets.token_hex(6)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How this process works.

    Attributes:
        pool: Name of the pool that this process belongs to.
        index: Its index in the pool, 0 to num_indexes - 1.
        num_indexes: Processes in the pool.
        device: What the model runs on.
        runtime: Which library runs it.
        batch_size: Images in one call of the model on an accelerator, images in flight on a CPU; None to choose.
        threads: Threads of the model on a CPU; None for all processors of the cgroup.
        memory_budget: Bytes for images between the stages; None for 60 % of what is left once the model is loaded.
        journal_interval_s: Seconds between two parts of the journal.
        image_timeout_s: Longest time for one stage of one image.
        max_failed_fraction: Failed inputs, as a fraction of all inputs listed, that still are a success.
        supersede: Whether to end an older run that is still at work.
        visualize: Whether to draw overlays.
        attempt: Random name of this process.
    """

    device: Device
    runtime: Runtime = "onnx"
    batch_size: int | None = None
    threads: int | None = None
    pool: str = "local"
    index: int = 0
    num_indexes: int = 1
    memory_budget: int | None = None
    journal_interval_s: float = 30.0
    image_timeout_s: float = 600.0
    max_failed_fraction: float = 0.05
    supersede: bool = False
    visualize: bool = False
    attempt: str = field(default_factory=new_attempt)
