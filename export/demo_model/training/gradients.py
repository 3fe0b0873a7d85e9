"""One gradient out of several processes, through memory that they share."""

from __future__ import annotations

from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

_TIMEOUT_S = 900.0


class SharedMean:
    """The mean over processes of a vector that each of them has.

    torch's own process groups need a network; one barrier and two buffers in turn do: whoever comes back to a
    buffer has passed the barrier after which all had read it.
    """

    def __init__(self, processes: int, length: int) -> None:
        self._buffers: Tensor = torch.zeros(2, processes, length).share_memory_()  # type: ignore[no-untyped-call]
        self._barrier: Any = get_context("spawn").Barrier(processes)
        self._processes = processes
        self._turn = 0

    def of(self, vector: Tensor, process: int) -> Tensor:
        """The mean (L,) of what all processes give, each its own vector (L,).

        Raises:
            threading.BrokenBarrierError: Another process ended.
        """
        if self._processes == 1:
            return vector
        buffer, self._turn = self._buffers[self._turn], 1 - self._turn
        buffer[process] = vector
        self._barrier.wait(_TIMEOUT_S)
        return buffer.mean(dim=0)
