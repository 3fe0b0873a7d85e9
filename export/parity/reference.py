"""Writes the reference answers of the original; `job.model.reference` reads them and documents the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from job.model.answers import Answer, QueryAnswer


def write_reference(
    path: Path,
    pixels: Sequence[NDArray[np.uint8]],
    answers: Sequence[Answer],
    grid_hw: tuple[int, int],
    queries: Sequence[QueryAnswer] = (),
) -> None:
    """Store pixels (S, S, 3), answers with masks of `grid_hw`, and samples of the mask logits of all queries.

    Args:
        path: File to write.
        pixels: uint8 (S, S, 3) of each image.
        answers: One for each image.
        grid_hw: Height and width of the masks.
        queries: One for each image with logits on each `QUERY_STEP`-th row and column, or none.
    """
    masks = [mask for answer in answers for mask in answer.masks]
    rows = [np.column_stack((np.full(len(answer.selected), i), answer.selected)) for i, answer in enumerate(answers)]
    arrays: dict[str, Any] = {
        "pixels": np.stack(pixels),
        "scores": np.stack([answer.scores for answer in answers]),
        "selected": np.concatenate(rows).astype(np.int64),
        "masks": np.packbits(np.stack(masks).reshape(len(masks), -1), axis=1) if masks else np.zeros((0, 0), np.uint8),
        "grid_hw": np.array(grid_hw, np.int64),
    }
    if queries:
        arrays["query_logits"] = np.stack([query.mask_logits for query in queries])
    np.savez_compressed(path, **arrays)
