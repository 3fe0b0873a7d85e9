"""A few pictures and the original's answers, stored with the artifact: a check that needs no checkpoint.

pixels    uint8   (n, S, S, 3)
scores    float32 (n, P, Q)
selected  int64   (K, 3)         (picture, prompt, query), ascending
masks     uint8   (K, h * w / 8) bits of the masks on a grid of grid_hw
grid_hw   int64   (2,)           a multiple of the model's own grid
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from export.parity.metrics import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

REFERENCE_NAME = "reference.npz"


@dataclass(frozen=True)
class Reference:
    """Pixels (n, S, S, 3) and an answer each, with masks (h, w) on a grid of `grid_hw`."""

    pixels: NDArray[np.uint8]
    answers: tuple[Answer, ...]
    grid_hw: tuple[int, int]


def write_reference(path: Path, pixels: Sequence[NDArray[np.uint8]], answers: Sequence[Answer]) -> None:
    """Store pixels and answers."""
    masks = [mask for answer in answers for mask in answer.masks]
    rows = [np.column_stack((np.full(len(answer.selected), i), answer.selected)) for i, answer in enumerate(answers)]
    np.savez_compressed(
        path,
        pixels=np.stack(pixels),
        scores=np.stack([answer.scores for answer in answers]),
        selected=np.concatenate(rows).astype(np.int64),
        masks=np.packbits(np.stack(masks).reshape(len(masks), -1), axis=1) if masks else np.zeros((0, 0), np.uint8),
        grid_hw=np.array(masks[0].shape if masks else (0, 0), np.int64),
    )


def read_reference(path: Path) -> Reference:
    """Read what `write_reference` stored."""
    with np.load(path, allow_pickle=False) as arrays:
        pixels, scores, selected = arrays["pixels"], arrays["scores"], arrays["selected"]
        height, width = map(int, arrays["grid_hw"])
        bits = np.unpackbits(arrays["masks"], axis=1, count=height * width) if len(selected) else arrays["masks"]
    masks = bits.astype(np.bool_).reshape(-1, height, width)
    answers = tuple(
        Answer(scores=of, selected=selected[mine][:, 1:], masks=tuple(masks[mine]))
        for of, mine in ((scores[i], selected[:, 0] == i) for i in range(len(pixels)))
    )
    return Reference(pixels=pixels, answers=answers, grid_hw=(height, width))
