"""TorchInductor's schedule for a GPU that does not exist."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from tests.gpu.cost import Sizes
from tests.gpu.routes.inductor import scheduled

pytestmark = pytest.mark.slow

TOKENS, WIDTH, HEADS = 64, 128, 4


class Block(nn.Module):
    """One block of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q, k, v = self.qkv(self.norm(x)).view(2, TOKENS, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        return x + F.gelu(self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


def test_pointwise_operators_become_two_kernels_around_the_products() -> None:
    module = Block().half().eval().requires_grad_(False)
    cost = scheduled("block", module, (torch.zeros(2, TOKENS, WIDTH, dtype=torch.float16),), Sizes())
    operators = sorted(x.operator for x in cost.nodes)
    assert operators == ["Attention", "MatMul", "MatMul", "generated kernel", "generated kernel"]
    tokens = 2 * TOKENS
    products = 2 * tokens * WIDTH * 4 * WIDTH
    assert cost.flop == products + 4 * tokens * WIDTH * TOKENS
    assert cost.traffic >= 2 * (4 * WIDTH * WIDTH + 12 * tokens * WIDTH)
