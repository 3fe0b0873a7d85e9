"""How well two sides agree about the same pictures, and what they have to meet."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from job.model.artifact import ParityFigures, Tolerance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from job.model.artifact import Precision

Comparison = Literal["same_input", "end_to_end"]

SCORE_THRESHOLD = 0.4

TOLERANCES: dict[tuple[Precision, Comparison], Tolerance] = {
    ("fp32", "same_input"): Tolerance(
        score=1e-4, threshold_band=0.0, mask_iou=0.999, mask_pixels=2, mask_iou_mean=0.999
    ),
    ("fp32", "end_to_end"): Tolerance(
        score=1e-3, threshold_band=1e-3, mask_iou=0.995, mask_pixels=4, mask_iou_mean=0.999
    ),
    ("fp16", "same_input"): Tolerance(
        score=5e-3, threshold_band=5e-3, mask_iou=0.99, mask_pixels=8, mask_iou_mean=0.998
    ),
    ("fp16", "end_to_end"): Tolerance(
        score=5e-3, threshold_band=5e-3, mask_iou=0.99, mask_pixels=8, mask_iou_mean=0.998
    ),
    ("int8", "same_input"): Tolerance(
        score=0.05, threshold_band=0.05, mask_iou=0.92, mask_pixels=16, mask_iou_mean=0.99, mask_outliers=0.005
    ),
    ("int8", "end_to_end"): Tolerance(
        score=0.05, threshold_band=0.05, mask_iou=0.92, mask_pixels=16, mask_iou_mean=0.99, mask_outliers=0.005
    ),
}


@dataclass(frozen=True)
class Answer:
    """What one side says about one picture.

    Attributes:
        scores: float32 (P, Q).
        selected: int64 (K, 2), (prompt, query) above the threshold.
        masks: One bool (H, W) for each selected, all of one size.
    """

    scores: NDArray[np.float32]
    selected: NDArray[np.int64]
    masks: tuple[NDArray[np.bool_], ...]


@dataclass
class Tally:
    """What has been compared so far.

    Attributes:
        prompts: Names of the prompts, in order.
        threshold: Score above which a query is an instance.
    """

    prompts: tuple[str, ...]
    threshold: float
    images: int = 0
    found: Counter[str] = field(default_factory=Counter)
    score_differences: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    unmatched_margins: list[float] = field(default_factory=list)

    def add(self, theirs: Answer, ours: Answer) -> None:
        """Compare the original's answer for a picture with the artifact's."""
        self.images += 1
        left = {tuple(key): mask for key, mask in zip(theirs.selected.tolist(), theirs.masks, strict=True)}
        right = {tuple(key): mask for key, mask in zip(ours.selected.tolist(), ours.masks, strict=True)}
        for key in left.keys() | right.keys():
            a, b = float(theirs.scores[key]), float(ours.scores[key])
            if key in left and key in right:
                self.found[self.prompts[key[0]].replace(" ", "_")] += 1
                self.score_differences.append(abs(a - b))
                self._add_masks(left[key], right[key])
            else:
                self.unmatched_margins.append(max(abs(a - self.threshold), abs(b - self.threshold)))

    def _add_masks(self, left: NDArray[np.bool_], right: NDArray[np.bool_]) -> None:
        union = int(np.count_nonzero(left | right))
        different = int(np.count_nonzero(left != right))
        self.ious.append((union - different) / union if union else 1.0)
        self.pixels.append(different)

    def figures(self, comparison: Comparison, tolerance: Tolerance, provider: str) -> ParityFigures:
        """Sum up."""
        return ParityFigures(
            comparison=comparison,
            images=self.images,
            instances={name: self.found[name] for name in (p.replace(" ", "_") for p in self.prompts)},
            unmatched=len(self.unmatched_margins),
            score_max=max(self.score_differences, default=0.0),
            mask_iou_min=min(self.ious, default=1.0),
            mask_iou_mean=float(np.mean(self.ious)) if self.ious else 1.0,
            mask_pixels_max=max(self.pixels, default=0),
            tolerance=tolerance,
            passed=self._meets(tolerance),
            provider=provider,
            machine=machine_name(provider),
        )

    def _meets(self, tolerance: Tolerance) -> bool:
        masks = zip(self.ious, self.pixels, strict=True)
        outliers = sum(iou < tolerance.mask_iou and n > tolerance.mask_pixels for iou, n in masks)
        return (
            bool(self.ious)
            and max(self.score_differences) <= tolerance.score
            and all(margin <= tolerance.threshold_band for margin in self.unmatched_margins)
            and outliers <= tolerance.mask_outliers * len(self.ious)
            and float(np.mean(self.ious)) >= tolerance.mask_iou_mean
        )


def describe(figures: ParityFigures) -> str:
    """One line for a person."""
    count = ", ".join(f"{n} {name}" for name, n in figures.instances.items())
    return (
        f"{figures.comparison}: {'agrees' if figures.passed else 'DISAGREES'} on {figures.images} images ({count}); "
        f"unmatched {figures.unmatched}, score within {figures.score_max:.2g}, "
        f"mask IoU at least {figures.mask_iou_min:.5f} (mean {figures.mask_iou_mean:.6f}), "
        f"at most {figures.mask_pixels_max} pixels apart [{figures.provider}, {figures.machine}]"
    )


def machine_name(provider: str) -> str:
    """Name the processor or GPU that a provider runs on."""
    if "CUDA" in provider.upper():
        import torch

        if torch.cuda.is_available():
            return str(torch.cuda.get_device_name())
    return _processor_name()


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
