"""An artifact against the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from export.parity.artifact import ArtifactSide
from export.parity.metrics import SCORE_THRESHOLD, TOLERANCES, Tally
from export.parity.original import OriginalSide
from export.parity.reference import REFERENCE_NAME, write_reference
from job.formats.image_resize import resize_to_square

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from PIL import Image

    from export.checkpoint import Original
    from job.model.artifact import Artifact, Manifest, ParityFigures
    from job.model.session import Session

REFERENCE_PICTURES = 2
REFERENCE_SCALE = 4


@dataclass(frozen=True)
class Verifier:
    """The original for a device, to compare artifacts with."""

    original: Original
    device: str

    def compare(
        self, artifact: Artifact, session: Session, pictures: Iterable[Image.Image]
    ) -> tuple[ParityFigures, ParityFigures]:
        """Compare on upright RGB pictures, before passengers and overlaps are sorted out.

        Returns:
            Figures for the same resized pixels, and for pictures that each side resizes on its own.
        """
        prompts, side = artifact.manifest.prompts, artifact.manifest.image_side
        theirs = OriginalSide(self.original.model, prompts, SCORE_THRESHOLD, self.device)
        ours = ArtifactSide(artifact, session, SCORE_THRESHOLD)
        same_input, end_to_end = Tally(prompts, SCORE_THRESHOLD), Tally(prompts, SCORE_THRESHOLD)
        for picture in pictures:
            size_hw = (picture.height, picture.width)
            pixels, their_pixels = resize_to_square(picture, side), theirs.resize(picture)
            answer, their_answer = ours.answer(pixels, size_hw), theirs.answer(pixels, size_hw)
            same_input.add(their_answer, answer)
            # Where both sides resize to the same bits, as they do on most CPUs, the answer is known.
            is_same = np.array_equal(pixels, their_pixels)
            end_to_end.add(their_answer if is_same else theirs.answer(their_pixels, size_hw), answer)
        provider, precision = session.info.provider, artifact.manifest.precision
        return (
            same_input.figures("same_input", TOLERANCES[precision, "same_input"], provider),
            end_to_end.figures("end_to_end", TOLERANCES[precision, "end_to_end"], provider),
        )

    def write_reference(self, manifest: Manifest, folder: Path, pictures: Iterator[Image.Image]) -> None:
        """Store the original's answers for the first pictures, on a grid finer than the model's own.

        On the model's own grid a mask is so small that an error of a pixel or two says nothing.
        """
        theirs = OriginalSide(self.original.model, manifest.prompts, SCORE_THRESHOLD, self.device)
        grid = manifest.grounding.outputs[-1].shape[1:]
        grid_hw = (int(grid[0]) * REFERENCE_SCALE, int(grid[1]) * REFERENCE_SCALE)
        pixels = [resize_to_square(next(pictures), manifest.image_side) for _ in range(REFERENCE_PICTURES)]
        write_reference(folder / REFERENCE_NAME, pixels, [theirs.answer(x, grid_hw) for x in pixels])
