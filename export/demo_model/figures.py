"""Precision and recall from predictions and ground truth (pure functions)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

THRESHOLD = 0.4
_HIT_IOU = 0.5
_IOUS = tuple(float(iou) for iou in np.arange(0.5, 0.96, 0.05).round(2))
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Comparison:
    """The predictions for one prompt on one picture, compared with the ground truth.

    Attributes:
        scores: float (K,).
        mask_ious: float (K, N), IoU of each predicted mask with the mask of each object.
        box_ious: float (K, N), IoU of the boxes.
        passengers: bool (N,), which objects are people inside a car.
    """

    scores: NDArray[np.float64]
    mask_ious: NDArray[np.float64]
    box_ious: NDArray[np.float64]
    passengers: NDArray[np.bool_]

    @property
    def is_answered(self) -> bool:
        """Whether a score exceeds the threshold."""
        return bool((self.scores > THRESHOLD).any())

    def found(self) -> NDArray[np.bool_]:
        """Objects (N,) that a prediction above the threshold matches."""
        hits: NDArray[np.bool_] = np.any(self.mask_ious[self.scores > THRESHOLD] >= _HIT_IOU, axis=0)
        return hits


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class; from masks, except `box_ap50`.

    Attributes:
        objects: Number of objects.
        ap50: Average precision at IoU 0.5.
        ap75: Average precision at IoU 0.75.
        ap: Mean of the average precision at IoU 0.5 to 0.95.
        box_ap50: Average precision of the boxes at IoU 0.5.
        precision: Fraction of correct predictions above the threshold; a second one for an object is incorrect.
        recall: Fraction of objects that these predictions match.
    """

    objects: int
    ap50: float
    ap75: float
    ap: float
    box_ap50: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Figures:
    """All figures of an evaluation.

    Attributes:
        scenes: Number of scenes.
        seed: Seed of the first scene.
        classes: Figures by class name.
        passengers: People inside cars: total number, number found.
        absent: Prompts for a class that a scene lacks: total number, number with a prediction.
        unknown: Prompts with words of no class: total number, number with a prediction.
    """

    scenes: int
    seed: int
    classes: dict[str, ClassFigures]
    passengers: tuple[int, int]
    absent: tuple[int, int]
    unknown: tuple[int, int]

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    def as_markdown(self) -> str:
        """A table of the classes, and a line with the other figures."""
        lines = [
            "| class | objects | AP50 | AP75 | AP50:95 | box AP50 | precision / recall at 0.4 |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, f in self.classes.items():
            row = " | ".join(f"{value:.2f}" for value in (f.ap50, f.ap75, f.ap, f.box_ap50))
            lines.append(f"| {name} | {f.objects} | {row} | {f.precision:.2f} / {f.recall:.2f} |")
        rest = (
            f"Passengers found {self.passengers[1]} of {self.passengers[0]}; answered at 0.4: "
            f"{self.absent[1]} of {self.absent[0]} prompts for a class that is absent, "
            f"{self.unknown[1]} of {self.unknown[0]} unknown words. "
            f"{self.scenes} scenes, seeds from {self.seed}."
        )
        return "\n".join([*lines, "", rest])


def class_figures(comparisons: Sequence[Comparison]) -> ClassFigures:
    """Figures of one class from all its comparisons."""
    objects = sum(len(comparison.passengers) for comparison in comparisons)
    by_mask = [(c.scores, c.mask_ious) for c in comparisons]
    precisions = [average_precision(by_mask, iou) for iou in _IOUS]
    over = [(scores[scores > THRESHOLD], ious[scores > THRESHOLD]) for scores, ious in by_mask]
    hits = _hits(over, _HIT_IOU)
    return ClassFigures(
        objects=objects,
        ap50=precisions[0],
        ap75=precisions[_IOUS.index(0.75)],
        ap=float(np.mean(precisions)),
        box_ap50=average_precision([(c.scores, c.box_ious) for c in comparisons], _HIT_IOU),
        precision=float(hits.sum() / max(1, len(hits))),
        recall=float(hits.sum() / max(1, objects)),
    )


def average_precision(answers: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], iou: float) -> float:
    """Area under the precision-recall curve, interpolated at 101 points as COCO does.

    Args:
        answers: For each picture: scores (K,), and IoU (K, N) with its objects.
        iou: Lowest IoU of a correct prediction.
    """
    objects = sum(ious.shape[1] for _, ious in answers)
    hits = _hits(answers, iou)
    if not objects or not len(hits):
        return 0.0
    recall = hits.cumsum() / objects
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    best_from = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best_from[np.searchsorted(recall, _RECALLS)].mean())


def pairwise_mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU (K, N) of masks (K, H, W) with masks (N, H, W)."""
    pixels = math.prod(first.shape[1:])
    rows, columns = (masks.reshape(len(masks), pixels).astype(np.float32) for masks in (first, second))
    inner = (rows @ columns.T).astype(np.float64)
    union = rows.sum(1)[:, None] + columns.sum(1)[None] - inner
    iou: NDArray[np.float64] = inner / np.maximum(union, 1)
    return iou


def pairwise_box_iou(first_xyxy: NDArray[np.float64], second_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (K, N) of boxes (K, 4) with boxes (N, 4)."""
    upper = np.maximum(first_xyxy[:, None, :2], second_xyxy[None, :, :2])
    lower = np.minimum(first_xyxy[:, None, 2:], second_xyxy[None, :, 2:])
    inner = np.clip(lower - upper, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first_xyxy, second_xyxy)]
    union = areas[0][:, None] + areas[1][None] - inner
    iou: NDArray[np.float64] = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    return iou


def _hits(answers: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], iou: float) -> NDArray[np.bool_]:
    """Which predictions are correct, by descending score over all pictures; an object matches one prediction."""
    scored: list[tuple[float, bool]] = []
    for scores, ious in answers:
        free = np.ones(ious.shape[1], bool)
        for index in np.argsort(-scores, kind="stable"):
            candidates = np.where(free, ious[index], -1.0)
            is_hit = bool(candidates.size and candidates.max() >= iou)
            if is_hit:
                free[candidates.argmax()] = False
            scored.append((float(scores[index]), is_hit))
    scored.sort(key=lambda pair: -pair[0])
    return np.array([is_hit for _, is_hit in scored], bool)
