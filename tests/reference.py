"""The rules of post-processing read a second time, plainly: full-size boolean arrays, fractions, torch's own resize.

Slow and large on purpose; the product is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job.model.session import Grounding

Mask = NDArray[np.bool_]

UPRIGHT_TO_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By EXIF orientation, the inverse of what makes the stored raster upright."""


@dataclass(frozen=True)
class Found:
    class_name: str
    score: float
    query: int
    mask: Mask


@dataclass(frozen=True)
class Expected:
    """What an image's outputs are made of; `listed` is (class, score, query, value) in instance order."""

    mask: NDArray[np.uint8]
    listed: list[tuple[str, float, int, int]]
    dropped_empty: int
    dropped_overlap: int
    beyond_255: int
    hidden: int


def resize(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    import torch

    batch = torch.from_numpy(np.ascontiguousarray(logits))[None, None]
    resized = torch.nn.functional.interpolate(batch, size_hw, mode="bilinear", align_corners=False)
    return np.asarray(resized[0, 0].numpy())


def turn_back(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation == 1:
        return upright
    return np.asarray(Image.fromarray(upright).transpose(UPRIGHT_TO_STORED[orientation]))


def expected_annotation(
    grounding: Grounding, prompts: Sequence[str], upright_size_hw: tuple[int, int], orientation: int
) -> Expected:
    found = []
    for (prompt, query), logits in zip(grounding.selected, grounding.mask_logits, strict=True):
        name, score = prompts[prompt].replace(" ", "_"), float(grounding.scores[prompt, query])
        found.append(Found(name, score, int(query), resize(logits, upright_size_hw) > 0))
    seen = [one for one in found if one.mask.any()]
    classed = with_passengers(seen) if "car" in prompts and "person" in prompts else seen
    names = [prompt.replace(" ", "_") for prompt in prompts] + ["passenger"]
    ordered = sorted(classed, key=lambda one: (names.index(one.class_name), one.query))
    apart = without_overlaps(ordered)
    highest = sorted(apart, key=lambda one: -one.score)[:255]
    kept = [one for one in apart if any(one is other for other in highest)]
    values = values_of(kept)
    painted = np.zeros(upright_size_hw, np.uint8)
    for value in sorted(values):
        painted[kept[values.index(value)].mask] = value
    return Expected(
        mask=turn_back(painted, orientation),
        listed=[(one.class_name, one.score, one.query, value) for one, value in zip(kept, values, strict=True)],
        dropped_empty=len(found) - len(seen),
        dropped_overlap=len(ordered) - len(apart),
        beyond_255=len(apart) - len(kept),
        hidden=len(set(values) - set(painted.flatten().tolist())),
    )


def with_passengers(found: list[Found]) -> list[Found]:
    cars = [one.mask for one in found if one.class_name == "car"]
    return [
        Found("passenger", one.score, one.query, one.mask)
        if one.class_name == "person" and any(sits_in(one.mask, car) for car in cars)
        else one
        for one in found
    ]


def sits_in(person: Mask, car: Mask) -> bool:
    px0, py0, px1, py1 = box_of(person)
    cx0, cy0, cx1, cy1 = box_of(car)
    middle_x, middle_y = Fraction(px0 + px1, 2), Fraction(py0 + py1, 2)
    if not (cx0 <= middle_x <= cx1 and cy0 <= middle_y <= cy1):
        return False
    share = Fraction(int((person & car).sum()), int(person.sum()))
    well_inside = px0 >= cx0 - 10 and py0 >= cy0 - 10 and px1 <= cx1 + 10 and py1 <= cy1 + 10
    return share > Fraction("0.6") or (share > Fraction("0.4") and well_inside)


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def without_overlaps(found: list[Found]) -> list[Found]:
    kept: list[Found] = []
    for one in found:
        if all(iou(one.mask, other.mask) <= Fraction("0.5") for other in kept):
            kept.append(one)
    return kept


def iou(a: Mask, b: Mask) -> Fraction:
    return Fraction(int((a & b).sum()), int((a | b).sum()))


def values_of(found: list[Found]) -> list[int]:
    step = 255 // len(found) if found else 0
    areas = [int(one.mask.sum()) for one in found]
    ranks = [
        1 + sum(other > area or (other == area and j < i) for j, other in enumerate(areas))
        for i, area in enumerate(areas)
    ]
    return [rank * step for rank in ranks]
