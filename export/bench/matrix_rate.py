"""The rate of large matrix products by torch on this CPU: what a model could reach if it did nothing else."""

from __future__ import annotations

import time

import torch

from job.model.processor import computes_bfloat16
from job.tools.bench.turns import MatrixRate, ProductRate

SIDE = 3072
"""Side of the square matrices; three of them in float32 take 113 MB, more than a cache."""
_PRODUCTS = 4


def matrix_rate(side: int = SIDE) -> MatrixRate:
    """Measure on as many threads as torch uses; bfloat16 where the processor has instructions for it."""
    bfloat16 = _rate(torch.bfloat16, side) if computes_bfloat16() else None
    return MatrixRate(float32=_rate(torch.float32, side), bfloat16=bfloat16)


def _rate(kind: torch.dtype, side: int) -> ProductRate:
    """The fastest of some products by the clock, and the one that took least processor time."""
    random = torch.Generator().manual_seed(1)
    left, right = (torch.randn(side, side, generator=random).to(kind) for _ in range(2))
    out = torch.mm(left, right)
    walls, cpus = [], []
    for _ in range(_PRODUCTS):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        torch.mm(left, right, out=out)
        walls.append(time.perf_counter() - wall_s)
        cpus.append(time.process_time() - cpu_s)
    flop = 2.0 * side**3
    return ProductRate(gflop_s=round(flop / min(walls) / 1e9, 1), gflop_cpu_s=round(flop / min(cpus) / 1e9, 1))
