"""Auxiliary heads that train the feature maps directly; they are dropped after training.

From a random start the decoder does not learn until the features of the picture are useful. These heads train them
within minutes: class maps on the finest features, and boxes at each cell of the coarsest and of the fused features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from export.demo_model.scenes.scenes import CLASS_NAMES
from export.demo_model.training.boxes import cxcywh_to_xyxy, overlaps
from export.demo_model.training.losses import dice_loss

if TYPE_CHECKING:
    from export.demo_model.training.batches import Batch

_HIDDEN, _BOX_CHANNELS = 96, 5
# A cell is assigned to a box if it lies in its middle or nearest to it: fractions of the box and of a cell.
_CENTRE_SHARE, _CENTRE_CELLS = 0.25, 0.7
_ANCHOR_SIZE, _NEGATIVE_SHARE = 0.15, 0.5
_BOX_WEIGHT, _OVERLAP_WEIGHT, _CLASS_MAP_WEIGHT = 5.0, 2.0, 3.0


class DenseHeads(nn.Module):
    """The three heads, for features of a width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.classes = nn.Conv2d(dim, len(CLASS_NAMES), 1)
        self.boxes = _box_head(dim, len(CLASS_NAMES))
        self.prompted_boxes = _box_head(dim, 1)
        nn.init.zeros_(_bias(self.classes))

    def feature_losses(self, fine: Tensor, coarse: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Losses of the features of the picture, before the fusion with a prompt.

        Args:
            fine: (B, D, 4G, 4G).
            coarse: (B, D, G, G).
            batch: A batch whose pairs are all classes of each picture, in order.
        """
        side = fine.shape[-1]
        blank = torch.zeros(batch.mask_side_px, batch.mask_side_px)
        maps = torch.stack([masks.amax(0) if len(masks) else blank for masks in batch.targets.masks])
        wanted = F.interpolate(maps[None], size=(side, side), mode="area")[0].gt(0.5).float()
        logits = self.classes(fine).flatten(0, 1)
        present = batch.targets.present
        dice = (dice_loss(logits, wanted) * present).sum() / present.sum().clamp(min=1)
        boxes = self.boxes(coarse).reshape(-1, _BOX_CHANNELS, *coarse.shape[-2:])
        entropy = F.binary_cross_entropy_with_logits(logits, wanted)
        return {
            "class_map": _CLASS_MAP_WEIGHT * entropy + dice,
            "dense": dense_box_loss(boxes, batch.targets.boxes_cxcywh),
        }

    def fused_loss(self, memory: Tensor, batch: Batch) -> Tensor:
        """Loss of the features fused with the prompt, (G*G, P, D)."""
        side = round(len(memory) ** 0.5)
        cells = memory.permute(1, 2, 0).reshape(*memory.shape[1:], side, side)
        return dense_box_loss(self.prompted_boxes(cells), batch.targets.boxes_cxcywh)


def dense_box_loss(output: Tensor, boxes_cxcywh: list[Tensor]) -> Tensor:
    """Loss of the boxes that are predicted at each cell.

    Args:
        output: (P, 5, G, G): a score, and a box as offset from a small anchor at the cell.
        boxes_cxcywh: Boxes (N, 4) of the objects of each of P.
    """
    side = output.shape[-1]
    assigned = torch.stack([_assigned_boxes(boxes, side) for boxes in boxes_cxcywh])
    responsible = assigned >= 0
    score = output[:, 0].sigmoid().detach()
    weight = torch.where(responsible, (1 - score) ** 2, _NEGATIVE_SHARE * score**2)
    entropy = F.binary_cross_entropy_with_logits(output[:, 0], responsible.float(), reduction="none")
    count = max(1, int(responsible.sum()))
    loss = (entropy * weight).sum() / count
    pair, y, x = responsible.nonzero(as_tuple=True)
    firsts = torch.tensor([0] + [len(boxes) for boxes in boxes_cxcywh]).cumsum(0)
    wanted = torch.cat(boxes_cxcywh)[firsts[pair] + assigned[pair, y, x]]
    small = torch.full((len(x),), _ANCHOR_SIZE)
    anchors = torch.stack([(x + 0.5) / side, (y + 0.5) / side, small, small], 1)
    predicted = (torch.logit(anchors) + output[pair, 1:, y, x]).sigmoid()
    _, giou = overlaps(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    apart = _BOX_WEIGHT * (predicted - wanted).abs().sum(1) + _OVERLAP_WEIGHT * (1 - giou)
    return loss + apart.sum() / count


def _assigned_boxes(boxes_cxcywh: Tensor, side: int) -> Tensor:
    """Index (G, G) of the smallest box whose middle contains the cell, or -1."""
    centres = (torch.arange(side) + 0.5) / side
    index, smallest = torch.full((side, side), -1), torch.full((side, side), torch.inf)
    for box, (x, y, width, height) in enumerate(boxes_cxcywh.tolist()):
        near_x = (centres - x).abs() < max(_CENTRE_SHARE * width, _CENTRE_CELLS / side)
        near_y = (centres - y).abs() < max(_CENTRE_SHARE * height, _CENTRE_CELLS / side)
        inside = near_y[:, None] & near_x[None] & (width * height < smallest)
        smallest[inside], index[inside] = width * height, box
    return index


def _box_head(dim: int, classes: int) -> nn.Sequential:
    last = nn.Conv2d(_HIDDEN, classes * _BOX_CHANNELS, 1)
    nn.init.zeros_(_bias(last))
    return nn.Sequential(nn.Conv2d(dim, _HIDDEN, 1), nn.ReLU(), last)


def _bias(layer: nn.Conv2d) -> Tensor:
    if layer.bias is None:
        raise ValueError("a head needs a bias")
    return layer.bias
