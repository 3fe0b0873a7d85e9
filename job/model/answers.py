"""The answers of a model to an image, and the session that gives them for the artifact's own prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.model.prompts import text_features_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from job.model.artifact import Artifact
    from job.model.session import ImageFeatures, Session

ALL_QUERIES_THRESHOLD = -1.0
"""Below every score: the grounding graph then selects each query."""

ToMask = Callable[["NDArray[np.float32]", tuple[int, int]], "NDArray[np.bool_]"]
"""Mask logits (h, w) and an image size (H, W) to a bool mask (H, W)."""


@dataclass(frozen=True)
class Answer:
    """The instances that one side finds in one image.

    Attributes:
        scores: float32 (P, Q), 0 to 1.
        selected: int64 (K, 2), (prompt, query) above the threshold.
        masks: One bool (H, W) for each selected query, all of one size.
    """

    scores: NDArray[np.float32]
    selected: NDArray[np.int64]
    masks: tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True)
class QueryAnswer:
    """The raw outputs of one side for every query of one image.

    Attributes:
        scores: float32 (P, Q), 0 to 1.
        mask_logits: float32 (P, Q, h, w), on the model's own grid or a part of it.
    """

    scores: NDArray[np.float32]
    mask_logits: NDArray[np.float32]

    def sampled(self, step: int) -> QueryAnswer:
        """Keep each `step`-th row and column of the mask logits."""
        return QueryAnswer(self.scores, self.mask_logits[..., ::step, ::step])


class ArtifactSide:
    """A session that answers for the artifact's own prompts."""

    def __init__(self, artifact: Artifact, session: Session, threshold: float, to_mask: ToMask) -> None:
        self._session = session
        self._threshold = threshold
        self._to_mask = to_mask
        self._text = text_features_for(artifact, session, artifact.manifest.prompts)

    @property
    def batch_size(self) -> int:
        """Images in one call of `encode`."""
        return self._session.info.batch_size

    def encode(self, pixels: NDArray[np.uint8]) -> ImageFeatures:
        """Encode pixels, uint8 (n, S, S, 3)."""
        return self._session.encode_images(pixels)

    def answers(self, features: ImageFeatures, size_hw: tuple[int, int]) -> Iterable[Answer]:
        """Answer for encoded images of one size."""
        for grounding in self._session.ground(features, self._text, self._threshold):
            masks = tuple(self._to_mask(logits, size_hw) for logits in grounding.mask_logits)
            yield Answer(scores=grounding.scores, selected=grounding.selected, masks=masks)

    def query_answers(self, features: ImageFeatures) -> Iterable[QueryAnswer]:
        """Answer for every query of encoded images; a query whose score is NaN keeps NaN logits."""
        for grounding in self._session.ground(features, self._text, ALL_QUERIES_THRESHOLD):
            logits = np.full((*grounding.scores.shape, *grounding.mask_logits.shape[1:]), np.nan, np.float32)
            logits[tuple(grounding.selected.T)] = grounding.mask_logits
            yield QueryAnswer(scores=grounding.scores, mask_logits=logits)

    def answer(self, pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> Answer:
        """Answer for the pixels (S, S, 3) of one image of the given size."""
        (answer,) = self.answers(self.encode(pixels[None]), size_hw)
        return answer

    def query_answer(self, pixels: NDArray[np.uint8]) -> QueryAnswer:
        """Answer for every query of the pixels (S, S, 3) of one image."""
        (answer,) = self.query_answers(self.encode(pixels[None]))
        return answer
