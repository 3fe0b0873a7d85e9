"""Bipartite matching of queries to objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from export.demo_model.training.boxes import cxcywh_to_xyxy, overlaps

# The costs of sam3.
_SCORE_COST, _CORNER_COST, _OVERLAP_COST = 2.0, 5.0, 2.0
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class Matches:
    """Matched triples, each field int64 (K,).

    Attributes:
        pairs: Which picture-and-prompt.
        queries: Index of the query in its pair.
        targets: Index of the object over all pairs.
    """

    pairs: Tensor
    queries: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.pairs)


@torch.no_grad()
def match(logits: Tensor, boxes_cxcywh: Tensor, targets_cxcywh: list[Tensor], queries_per_object: int = 1) -> Matches:
    """Match queries to objects at minimum cost, each query to at most one object.

    Args:
        logits: Scores (P, Q).
        boxes_cxcywh: Predicted boxes (P, Q, 4).
        targets_cxcywh: Boxes (N, 4) of the objects of each of the P pairs.
        queries_per_object: Number of queries that are matched to one object.
    """
    found: list[tuple[int, int, int]] = []
    first = 0
    for pair, targets in enumerate(targets_cxcywh):
        if len(targets):
            cost = np.tile(_cost(logits[pair], boxes_cxcywh[pair], targets), (1, queries_per_object))
            queries, columns = linear_sum_assignment(cost)
            found += [(pair, int(q), first + int(c) % len(targets)) for q, c in zip(queries, columns, strict=True)]
        first += len(targets)
    table = torch.tensor(found, dtype=torch.long).reshape(-1, 3)
    return Matches(table[:, 0], table[:, 1], table[:, 2])


def _cost(
    logits: Tensor, boxes_cxcywh: Tensor, targets_cxcywh: Tensor
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Cost (Q, N) of each query for each object."""
    score = logits.sigmoid()
    hit = _FOCAL_ALPHA * (1 - score) ** _FOCAL_GAMMA * -F.logsigmoid(logits)
    miss = (1 - _FOCAL_ALPHA) * score**_FOCAL_GAMMA * -F.logsigmoid(-logits)
    _, giou = overlaps(cxcywh_to_xyxy(boxes_cxcywh)[:, None], cxcywh_to_xyxy(targets_cxcywh)[None])
    apart = torch.cdist(boxes_cxcywh, targets_cxcywh, p=1)
    cost = _SCORE_COST * (hit - miss)[:, None] + _CORNER_COST * apart - _OVERLAP_COST * giou
    return cost.numpy()
