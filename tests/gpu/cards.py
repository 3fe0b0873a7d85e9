"""Data sheet figures of the GPUs that the cost model predicts, and the shares of them that it assumes."""

from __future__ import annotations

from dataclasses import dataclass

# Assumed, not measured: what well-shaped matrix products and convolutions reach of the dense peak, what the other
# kernels reach of the memory bandwidth, and the time between two kernels of one stream that nothing fills.
SHARE_OF_PEAK = 0.45
SHARE_OF_BANDWIDTH = 0.8
LAUNCH_S = 2e-6


@dataclass(frozen=True)
class Card:
    """One GPU.

    Attributes:
        half_flops: Dense peak of float16 products with float32 sums, FLOP/s. bfloat16 has the same, where it exists.
        single_flops: Peak of float32 without TF32, FLOP/s.
        bandwidth: Of the memory, bytes/s.
        memory: Bytes.
        source: Document of the figures. Figures "with sparsity" are halved.
    """

    name: str
    half_flops: float
    single_flops: float
    bandwidth: float
    memory: float
    source: str


CARDS = (
    Card("H200", 989.4e12, 67e12, 4.8e12, 141e9, "NVIDIA H200 Tensor Core GPU data sheet, SXM"),
    Card("H100", 989.4e12, 67e12, 3.35e12, 80e9, "NVIDIA H100 Tensor Core GPU data sheet, SXM"),
    Card("A100", 312e12, 19.5e12, 2.039e12, 80e9, "NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM"),
    Card("L4", 121e12, 30.3e12, 300e9, 24e9, "NVIDIA L4 Tensor Core GPU data sheet"),
    Card("T4", 65e12, 8.1e12, 320e9, 16e9, "NVIDIA T4 Tensor Core GPU data sheet"),
)
