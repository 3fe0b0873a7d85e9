"""Compares an artifact with the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from export.parity.machine import machine_name
from export.parity.original import OriginalSide
from export.parity.reference import write_reference
from job.formats.image_resize import resize_to_square
from job.model.answers import ArtifactSide
from job.model.comparison import SCORE_THRESHOLD, Tally
from job.model.reference import REFERENCE_NAME
from job.postprocess.masks import full_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from export.checkpoint import Original
    from job.model.artifact import Artifact, Manifest, ParityFigures
    from job.model.comparison import Comparison
    from job.model.session import Session

REFERENCE_PICTURES = 2
REFERENCE_SCALE = 4
QUERY_PICTURES = 2
"""Images of which every query is compared when no image has an instance."""


@dataclass(frozen=True)
class Verifier:
    """The original on a device, to compare artifacts with."""

    original: Original
    device: str

    def compare(
        self, artifact: Artifact, session: Session, pictures: Iterable[Image.Image]
    ) -> tuple[ParityFigures, ParityFigures]:
        """Compare on upright RGB pictures, before passengers and overlaps are handled.

        Returns:
            Figures for the same resized pixels, and for pictures that each side resizes on its own.
        """
        prompts, side = artifact.manifest.prompts, artifact.manifest.image_side
        theirs = OriginalSide(self.original.model, prompts, SCORE_THRESHOLD, self.device)
        ours = ArtifactSide(artifact, session, SCORE_THRESHOLD, full_mask)
        same_input, end_to_end = Tally(prompts, SCORE_THRESHOLD), Tally(prompts, SCORE_THRESHOLD)
        first: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
        for picture in pictures:
            size_hw = (picture.height, picture.width)
            pixels, their_pixels = resize_to_square(picture, side), theirs.resize(picture)
            answer, their_answer = ours.answer(pixels, size_hw), theirs.answer(pixels, size_hw)
            same_input.add(their_answer, answer)
            # Where both sides resize to the same bits, as they do on most CPUs, the answer is known.
            is_same = np.array_equal(pixels, their_pixels)
            end_to_end.add(their_answer if is_same else theirs.answer(their_pixels, size_hw), answer)
            first = [*first, (pixels, their_pixels)][:QUERY_PICTURES]
        for pixels, their_pixels in first:
            if not same_input.has_instances:
                same_input.add_queries(theirs.query_answer(pixels), ours.query_answer(pixels))
            if not end_to_end.has_instances:
                end_to_end.add_queries(theirs.query_answer(their_pixels), ours.query_answer(pixels))
        provider = session.info.provider
        return (
            _figures(same_input, artifact, "same_input", provider),
            _figures(end_to_end, artifact, "end_to_end", provider),
        )

    def write_reference(self, manifest: Manifest, folder: Path, pictures: Iterator[Image.Image]) -> None:
        """Store the original's answers to the first pictures, on a grid finer than the model's own.

        On the model's own grid a mask is so small that one or two wrong pixels are within every tolerance.
        """
        theirs = OriginalSide(self.original.model, manifest.prompts, SCORE_THRESHOLD, self.device)
        grid = manifest.mask_head.outputs[0].shape[1:]
        grid_hw = (int(grid[0]) * REFERENCE_SCALE, int(grid[1]) * REFERENCE_SCALE)
        pixels = [resize_to_square(next(pictures), manifest.image_side) for _ in range(REFERENCE_PICTURES)]
        answers = [theirs.answer(x, grid_hw) for x in pixels]
        has_instances = any(len(answer.selected) for answer in answers)
        queries = [] if has_instances else [theirs.query_answer(x) for x in pixels]
        write_reference(folder / REFERENCE_NAME, pixels, answers, grid_hw, queries)


def _figures(tally: Tally, artifact: Artifact, comparison: Comparison, provider: str) -> ParityFigures:
    precision = artifact.manifest.precision
    return tally.figures(precision, comparison, provider=provider, machine=machine_name(provider))
