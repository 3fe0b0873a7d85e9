"""The mean gradient of several processes, through shared memory."""

from __future__ import annotations

from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

_TIMEOUT_S = 900.0


class SharedMean:
    """The mean of one vector from each process.

    torch's process groups need a network. One barrier and two alternating buffers are enough: a process reuses a
    buffer only after a barrier that all processes pass after reading it.
    """

    def __init__(self, processes: int, length: int) -> None:
        self._buffers: Tensor = torch.zeros(2, processes, length).share_memory_()  # type: ignore[no-untyped-call]
        self._barrier: Any = get_context("spawn").Barrier(processes)
        self._processes = processes
        self._turn = 0

    def of(self, vector: Tensor, process: int) -> Tensor:
        """The mean (L,) of the vectors (L,) of all processes.

        Raises:
            threading.BrokenBarrierError: Another process ended.
        """
        if self._processes == 1:
            return vector
        buffer, self._turn = self._buffers[self._turn], 1 - self._turn
        buffer[process] = vector
        self._barrier.wait(_TIMEOUT_S)
        return buffer.mean(dim=0)
