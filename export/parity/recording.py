"""The original's answers in files, so that the original can leave memory before the artifact is loaded.

Together they would need 18 GB at SAM 3's size.
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from export.graphs.graphs import image_side
from export.parity.original import OriginalSide
from export.parity.reference import write_reference
from job.formats.image_resize import resize_to_square
from job.model.comparison import SCORE_THRESHOLD
from job.model.reference import REFERENCE_NAME, read_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from PIL import Image

    from export.checkpoint import Original
    from job.model.answers import Answer, QueryAnswer
    from job.model.artifact import Manifest

REFERENCE_PICTURES = 2
REFERENCE_SCALE = 4
QUERY_PICTURES = 2
"""Images of which the mask logits of every query are kept, for the case that no image has an instance."""


@dataclass(frozen=True)
class RecordedPicture:
    """The original's answers to one picture.

    Attributes:
        pixels: uint8 (S, S, 3), as the artifact's resize gives them.
        size_hw: Height and width of the picture and of the masks.
        answer: To `pixels`.
        queries: To `pixels`; not for every picture.
        end_to_end: To the pixels that the original's own resize gives.
        end_to_end_queries: To the same; not for every picture.
        is_same_resize: Whether both resizes give the same pixels.
    """

    pixels: NDArray[np.uint8]
    size_hw: tuple[int, int]
    answer: Answer
    queries: QueryAnswer | None
    end_to_end: Answer
    end_to_end_queries: QueryAnswer | None
    is_same_resize: bool


@dataclass
class Recording:
    """Files with the answers to pictures, two for a picture that the original resizes to other pixels."""

    folder: Path
    _pictures: list[tuple[Path, Path]] = field(default_factory=list)

    def add(self, side: OriginalSide, picture: Image.Image, image_side_px: int) -> None:
        """Answer for one upright RGB picture, and store the answers."""
        pixels, their_pixels = resize_to_square(picture, image_side_px), side.resize(picture)
        size_hw, number = (picture.height, picture.width), len(self._pictures)
        path = self._store(f"{number}.npz", side, pixels, size_hw)
        # Where both sides resize to the same bits, as they do on most CPUs, the answer is known.
        is_same = np.array_equal(pixels, their_pixels)
        other = path if is_same else self._store(f"{number}.other.npz", side, their_pixels, size_hw)
        self._pictures.append((path, other))

    def _store(self, name: str, side: OriginalSide, pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> Path:
        answer, queries = side.answer(pixels, size_hw)
        path = self.folder / name
        is_kept = len(self._pictures) < QUERY_PICTURES
        write_reference(path, [pixels], [answer], size_hw, [queries] if is_kept else [])
        return path

    def __iter__(self) -> Iterator[RecordedPicture]:
        """Read one picture after the other."""
        for path, other in self._pictures:
            same = read_reference(path)
            end_to_end = same if other == path else read_reference(other)
            yield RecordedPicture(
                pixels=same.pixels[0],
                size_hw=same.grid_hw,
                answer=same.answers[0],
                queries=next(iter(same.queries), None),
                end_to_end=end_to_end.answers[0],
                end_to_end_queries=next(iter(end_to_end.queries), None),
                is_same_resize=other == path,
            )


@contextmanager
def recording() -> Iterator[Recording]:
    """Yield a recording in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="sam3-answers-") as folder:
        yield Recording(Path(folder))


def record(
    original: Original, device: str, prompts: tuple[str, ...], pictures: Iterable[Image.Image], to: Recording
) -> None:
    """Store the original's answers to upright RGB pictures, before passengers and overlaps are handled."""
    side = OriginalSide(original.model, prompts, SCORE_THRESHOLD, device)
    for picture in pictures:
        to.add(side, picture, image_side(original.model))


def record_reference(
    original: Original, device: str, manifest: Manifest, folder: Path, pictures: Iterator[Image.Image]
) -> None:
    """Store the original's answers to the first pictures with the artifact, on a grid finer than the model's own.

    On the model's own grid a mask is so small that one or two wrong pixels are within every tolerance.
    """
    side = OriginalSide(original.model, manifest.prompts, SCORE_THRESHOLD, device)
    height, width = manifest.image_encoder.outputs[0].shape[-2:]  # of the finest features and of the mask logits
    grid_hw = (int(height) * REFERENCE_SCALE, int(width) * REFERENCE_SCALE)
    pixels = [resize_to_square(next(pictures), manifest.image_side) for _ in range(REFERENCE_PICTURES)]
    answers, queries = zip(*(side.answer(x, grid_hw) for x in pixels), strict=True)
    has_instances = any(len(answer.selected) for answer in answers)
    write_reference(folder / REFERENCE_NAME, pixels, answers, grid_hw, [] if has_instances else queries)


def release_memory() -> None:
    """Return the memory of dropped models to the system, and to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
