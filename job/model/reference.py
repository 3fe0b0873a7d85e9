"""The original's answers to a few images, stored with the artifact: a comparison that needs no checkpoint.

pixels        uint8   (n, S, S, 3)
scores        float32 (n, P, Q)
selected      int64   (K, 3)         (image, prompt, query), ascending
masks         uint8   (K, h * w / 8) bits of the masks on a grid of grid_hw
grid_hw       int64   (2,)           a multiple of the model's own grid
query_logits  float32 (n, P, Q, y, x) mask logits of all queries on each `QUERY_STEP`-th row and column of the model's
                                     own grid; not in every file
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.errors import ArtifactError
from job.model.answers import Answer, QueryAnswer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from job.model.artifact import Artifact

REFERENCE_NAME = "reference.npz"
QUERY_STEP = 8


@dataclass(frozen=True)
class Reference:
    """Images and the original's answers.

    Attributes:
        pixels: uint8 (n, S, S, 3).
        answers: One for each image, masks on a grid of `grid_hw`.
        grid_hw: Height and width of the masks.
        queries: One for each image where the file has their logits, else none. Artifacts without instances that were
            exported before `query_logits` existed have scores only: their logits are of size zero.
    """

    pixels: NDArray[np.uint8]
    answers: tuple[Answer, ...]
    grid_hw: tuple[int, int]
    queries: tuple[QueryAnswer, ...]

    @property
    def richest(self) -> int:
        """The image with the most instances."""
        return max(range(len(self.answers)), key=lambda i: len(self.answers[i].selected))


def reference_of(artifact: Artifact) -> Reference:
    """Read the reference of an artifact.

    Raises:
        ArtifactError: The artifact has none, or it cannot be read.
    """
    path = artifact.path(REFERENCE_NAME)
    if not path.is_file():
        raise ArtifactError(f"model {artifact.folder} came without {REFERENCE_NAME}: copy the whole folder")
    try:
        return read_reference(path)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as exc:
        raise ArtifactError(f"model file {path} cannot be read: {exc}. Export or copy it again") from exc


def read_reference(path: Path) -> Reference:
    """Read a reference file."""
    with np.load(path, allow_pickle=False) as arrays:
        pixels, scores, selected = arrays["pixels"], arrays["scores"], arrays["selected"]
        height, width = map(int, arrays["grid_hw"])
        bits = np.unpackbits(arrays["masks"], axis=1, count=height * width) if len(selected) else arrays["masks"]
        empty = None if len(selected) else np.zeros((*scores.shape, 0, 0), np.float32)
        query_logits = arrays.get("query_logits", empty)
    masks = bits.astype(np.bool_).reshape(len(selected), height, width)
    answers = tuple(
        Answer(scores=of, selected=selected[mine][:, 1:], masks=tuple(masks[mine]))
        for of, mine in ((scores[i], selected[:, 0] == i) for i in range(len(pixels)))
    )
    queries = () if query_logits is None else tuple(map(QueryAnswer, scores, query_logits))
    grid_hw = (max(height, 1), max(width, 1))  # without a mask the first release stored 0 x 0
    return Reference(pixels=pixels, answers=answers, grid_hw=grid_hw, queries=queries)
