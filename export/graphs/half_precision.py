"""Half precision where it costs little accuracy: weights, arithmetic and memory traffic of the large layers.

Matrix products, attention, convolutions, normalisation and the residual stream between them take float16; products,
softmax and normalisation accumulate in float32. Boxes, scores and the embedding of the queries stay float32. Parity on
real pictures decides whether that is enough, not this list.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EXACT = (
    "queries.norm",
    "queries.box_head",
    "queries.presence_norm",
    "queries.presence_head",
    "queries.places",
    "queries.scoring",
    "queries.start",
    "queries.bias.distance",
    "embeddings",
)
"""Names of modules and buffers of the graphs that stay float32."""


def use_half_precision(graph: nn.Module) -> None:
    """Make the large parts of a graph compute in float16; the tensors of the original model stay as they are."""
    for path, module in graph.named_modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and not _is_exact(path, name):
                module._parameters[name] = nn.Parameter(_half(parameter.detach()), requires_grad=False)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and not _is_exact(path, name):
                module._buffers[name] = _half(buffer)


def _half(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float16) if tensor.dtype == torch.float32 else tensor


def _is_exact(path: str, name: str) -> bool:
    full = f"{path}.{name}" if path else name
    return any(full == exact or full.startswith(f"{exact}.") for exact in EXACT)
