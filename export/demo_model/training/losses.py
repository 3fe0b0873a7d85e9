"""Losses of scores, boxes, masks and presence of the prompted objects."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from export.demo_model.training.boxes import cxcywh_to_xyxy, overlaps
from export.demo_model.training.matching import Matches, match

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

WEIGHTS = {
    "score": 2.0, "corner": 5.0, "overlap": 2.0, "mask": 2.5, "dice": 4.5, "presence": 1.0,
    "semantic": 2.0, "semantic_dice": 1.0,
}  # fmt: skip
# sam3's decoder doubles its queries in training; three queries of the second half are matched to each object.
_GROUPS = (("", 1, 1.0), ("_o2m", 3, 0.6))
_INNER_LAYER_SHARE = 0.5
# The target of a positive is p^a * quality^(1-a), as in IoU-aware classification: it converges to the quality.
_SCORE_EXPONENT, _MIN_SCORE_TARGET = 0.25, 0.01
# The weight of a negative is p^gamma: gamma below one increases the weight of the many low scores.
_NEGATIVE_GAMMA = 0.75
_AREA_WEIGHT, _FRAME_WEIGHT = 3.0, 0.08


@dataclass(frozen=True)
class Targets:
    """Targets for each of P pairs of a picture and a prompt.

    Attributes:
        boxes_cxcywh: float32 (N, 4) each, in fractions of the picture.
        masks: float32 (N, M, M) each, M twice the side of the predicted masks.
    """

    boxes_cxcywh: list[Tensor]
    masks: list[Tensor]

    @property
    def present(self) -> Tensor:
        """float32 (P,): 1 where there is an object."""
        return torch.tensor([float(len(boxes) > 0) for boxes in self.boxes_cxcywh])


def grounding_losses(output: Mapping[str, Any], targets: Targets) -> dict[str, Tensor]:
    """Unweighted losses of the network's predictions, summed over the layers of its decoder.

    Args:
        output: The network's output in training mode, with `aux_outputs` of the layers before the last.
        targets: The expected output.
    """
    losses: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for layer, answers in enumerate([output, *output.get("aux_outputs", [])]):
        layer_share = _INNER_LAYER_SHARE if layer else 1.0
        for suffix, queries_per_object, group_share in _GROUPS:
            share = layer_share * group_share
            for name, value in _group_losses(answers, suffix, queries_per_object, targets).items():
                losses[name] = losses[name] + share * value
        presence = answers["presence_logit_dec"].view(-1)
        losses["presence"] = losses["presence"] + layer_share * F.binary_cross_entropy_with_logits(
            presence, targets.present
        )
    return {**losses, **_semantic_losses(output["semantic_seg"], targets)}


def weighted_sum(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the losses by their weights; the default weight is 1."""
    return torch.stack([WEIGHTS.get(name, 1.0) * value for name, value in losses.items()]).sum()


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 minus the Dice coefficient of masks: (..., H, W) logits and 0/1 targets to (...)."""
    predicted, wanted = logits.sigmoid().flatten(-2), targets.flatten(-2)
    return 1 - (2 * (predicted * wanted).sum(-1) + 1) / (predicted.sum(-1) + wanted.sum(-1) + 1)


def mask_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and quality of matched masks.

    Args:
        logits: (K, M, M).
        targets: 0 or 1, (K, M, M).

    Returns:
        Cross entropy, dice loss and IoU of the masks at the threshold, each (K,). The cross entropy is divided by
        the area plus a constant, so that pixels of small objects have more weight, up to a bound.
    """
    area = targets.flatten(1).sum(1)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1)
    scaled = entropy.sum(1) / (_AREA_WEIGHT * area + _FRAME_WEIGHT * entropy.shape[1])
    positive = (logits.detach() > 0).flatten(1)
    inner = (positive & (targets.flatten(1) > 0.5)).sum(1)
    return scaled, dice_loss(logits, targets), inner / (positive.sum(1) + area - inner).clamp(min=1)


def score_loss(logits: Tensor, matches: Matches, quality: Tensor, present: Tensor) -> Tensor:
    """Cross entropy of the scores; the target is the quality for matched queries and 0 for the others.

    Args:
        logits: (P, Q).
        matches: Queries that are matched to an object.
        quality: 0..1, (K,), of the matched queries.
        present: (P,); pairs without an object do not count here, the presence score covers them.
    """
    score = logits.sigmoid().detach()
    target, weight = torch.zeros_like(score), score**_NEGATIVE_GAMMA
    matched = (matches.pairs, matches.queries)
    blended = score[matched] ** _SCORE_EXPONENT * quality.clamp(0, 1) ** (1 - _SCORE_EXPONENT)
    target[matched], weight[matched] = blended.clamp(min=_MIN_SCORE_TARGET), 1.0
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (entropy * weight * present[:, None]).sum()


def _group_losses(
    answers: Mapping[str, Any], suffix: str, queries_per_object: int, targets: Targets
) -> dict[str, Tensor]:
    logits, boxes = answers[f"pred_logits{suffix}"].squeeze(-1), answers[f"pred_boxes{suffix}"]
    matches = match(logits.detach(), boxes.detach(), targets.boxes_cxcywh, queries_per_object)
    matched, wanted = (matches.pairs, matches.queries), torch.cat(targets.boxes_cxcywh)[matches.targets]
    count = max(1, len(torch.cat(targets.boxes_cxcywh)) * queries_per_object)
    iou, giou = overlaps(cxcywh_to_xyxy(boxes[matched]), cxcywh_to_xyxy(wanted))
    losses = {"corner": (boxes[matched] - wanted).abs().sum() / count, "overlap": (1 - giou).sum() / count}
    quality = iou.detach()
    masks = answers.get(f"pred_masks{suffix}")
    if masks is not None and len(matches):
        logits_2x = F.interpolate(masks[matched][None], scale_factor=2, mode="bilinear", align_corners=False)[0]
        entropy, dice, mask_iou = mask_losses(logits_2x, torch.cat(targets.masks)[matches.targets])
        losses |= {"mask": entropy.sum() / count, "dice": dice.sum() / count}
        # The output is the mask, so the score must predict the quality of the mask.
        quality = mask_iou
    losses["score"] = score_loss(logits, matches, quality, targets.present) / count
    return losses


def _semantic_losses(logits: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Losses of the semantic map of a prompt, (P, 1, M/2, M/2), which trains the picture's features directly."""
    predicted = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
    blank = torch.zeros(predicted.shape[-2:])
    wanted = torch.stack([masks.amax(0) if len(masks) else blank for masks in targets.masks])
    dice = (dice_loss(predicted, wanted) * targets.present).sum() / targets.present.sum().clamp(min=1)
    return {"semantic": F.binary_cross_entropy_with_logits(predicted, wanted), "semantic_dice": dice}
