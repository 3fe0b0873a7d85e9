"""Weights that take over the biases and scales around them.

On a GPU an operator that only adds a bias reads and writes a whole tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from export.graphs.attention import linear_of

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIGNMENT = 8
"""Products on a GPU are fast where widths are multiples of this; constants among channels take so many."""
_SMALLEST_SCALE = 1 / 16
"""Share of the largest scale of a normalisation below which its scales stay where they are."""


def fold_biases(norm: nn.LayerNorm, layers: Sequence[nn.Linear]) -> tuple[nn.LayerNorm, list[nn.Linear]]:
    """Let linear layers read a normalisation without scale and bias, and add no bias themselves.

    The normalised channels sum to zero, so one of them is the negative sum of the others and need not be stored. It
    becomes the constant 1, and its column in each matrix the bias. Of the C channels that one is given up whose
    columns are smallest, because the rounding errors of all others meet in it.

    Args:
        norm: Normalisation over C channels that only these layers read.
        layers: From C channels; their bias may be missing.

    Returns:
        What takes their places.
    """
    scale, shift = norm.weight.detach(), norm.bias.detach()
    scaled = [layer.weight.detach() * scale for layer in layers]
    given_up = int(torch.stack([x.square().sum(0) for x in scaled]).sum(0).argmin())
    folded = []
    for layer, weight in zip(layers, scaled, strict=True):
        bias = layer.weight.detach() @ shift
        columns = weight - weight[:, given_up, None]
        columns[:, given_up] = bias if layer.bias is None else bias + layer.bias.detach()
        folded.append(linear_of(columns, None))
    one = torch.zeros_like(scale)
    one[given_up] = 1
    constant = nn.LayerNorm(tuple(norm.normalized_shape), eps=norm.eps, device="meta")
    constant.weight, constant.bias = (nn.Parameter(x, requires_grad=False) for x in (1 - one, one))
    return constant, folded


class Perceptron(nn.Module):
    """Linear layers with ReLU between as `max(x, -b)`, where b passes into the next layer; the first has no bias.

    `relu(x + b) = max(x, -b) + b`. The last hidden layer has a constant channel, `max(0, 1)`, whose weights are the
    biases of the ends.
    """

    def __init__(self, hidden: Sequence[Any], *ends: nn.Linear) -> None:
        """Take the layers that ReLU follows, two or more, and those that read the last of them."""
        super().__init__()
        assert hidden[0].bias is None
        assert len(hidden) > 1
        self.first = hidden[0].weight
        self.widths, self.floors, self.ends = nn.ParameterList(), nn.ParameterList(), nn.ModuleList()
        carried = torch.zeros(hidden[0].out_features)
        for layer in hidden[1:]:
            constants = ALIGNMENT if layer is hidden[-1] else 0
            carried = layer.bias.detach() + layer.weight.detach() @ carried
            self.widths.append(nn.Parameter(F.pad(layer.weight.detach(), (0, 0, 0, constants)), requires_grad=False))
            self.floors.append(nn.Parameter(F.pad(-carried, (0, constants), value=1.0), requires_grad=False))
        for end in ends:
            bias = end.bias.detach() + end.weight.detach() @ carried
            columns = F.pad(bias[:, None], (0, ALIGNMENT - 1))
            self.ends.append(linear_of(torch.cat((end.weight.detach(), columns), 1), None))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(…, C) to (…, outputs) of each end."""
        x = F.relu(F.linear(x, self.first))
        for weight, floor in zip(self.widths, self.floors, strict=True):
            x = torch.maximum(F.linear(x, weight), floor)
        return tuple(end(x) for end in self.ends)


def has_large_scales(norm: nn.GroupNorm) -> bool:
    """Whether all scales are positive and of one order, so that dividing by them costs no accuracy."""
    scale = norm.weight.detach()
    return bool(scale.min() > 0) and bool(scale.min() >= _SMALLEST_SCALE * scale.max())


def scale_outputs(convolution: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """A convolution whose outputs are `(y + shift) * scale`, both (C,)."""
    assert convolution.bias is not None
    weight = convolution.weight.detach() * scale[:, None, None, None]
    return _convolution(convolution, weight, (convolution.bias.detach() + shift) * scale)


def scale_inputs(convolution: nn.Conv2d, scale: Tensor) -> nn.Conv2d:
    """A convolution of `x * scale`, scale (C,)."""
    assert convolution.bias is not None
    return _convolution(convolution, convolution.weight.detach() * scale[:, None, None], convolution.bias.detach())


def followed_by(transposed: nn.ConvTranspose2d, pointwise: nn.Conv2d) -> nn.ConvTranspose2d:
    """A transposed convolution and the convolution with a kernel of 1 that reads it, as one."""
    assert transposed.groups == pointwise.groups == 1
    assert transposed.bias is not None
    assert pointwise.bias is not None
    matrix = pointwise.weight.detach().flatten(1)
    made = nn.ConvTranspose2d(
        transposed.in_channels,
        pointwise.out_channels,
        transposed.kernel_size,  # type: ignore[arg-type]
        transposed.stride,  # type: ignore[arg-type]
        device="meta",
    )
    weight = torch.einsum("imhw,om->iohw", transposed.weight.detach(), matrix)
    bias = matrix @ transposed.bias.detach() + pointwise.bias.detach()
    made.weight, made.bias = (nn.Parameter(x.contiguous(), requires_grad=False) for x in (weight, bias))
    return made


def _convolution(source: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    outputs, inputs, *kernel = weight.shape
    assert source.groups == 1
    made = nn.Conv2d(inputs, outputs, tuple(kernel), source.stride, source.padding, device="meta")  # type: ignore[arg-type]
    made.weight, made.bias = (nn.Parameter(x, requires_grad=False) for x in (weight, bias))
    return made
