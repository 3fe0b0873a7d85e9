"""Sessions whose answers are the fixed instances: with the work of the real model, or without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from job.tools.bench.pictures import INSTANCES, fixed_grounding
from job.worker.batch_size import threshold_for

if TYPE_CHECKING:
    from collections.abc import Sized

    import numpy as np
    from numpy.typing import NDArray

    from job.model.session import Grounding, ImageFeatures, Session, SessionInfo, TextFeatures


class FixedSelection:
    """Runs the real session, mask output of so many queries included, and answers with the fixed instances.

    A model with random weights has no instances of its own, and one with real weights finds a number of its own.

    Attributes:
        threshold: Score threshold that selects the fixed number of queries.
    """

    def __init__(self, session: Session, threshold: float, answer: Grounding) -> None:
        self._session = session
        self._answer = answer
        self.threshold = threshold

    @property
    def info(self) -> SessionInfo:
        """See `job.model.session.Session`."""
        return self._session.info

    def encode_images(self, pixels: NDArray[np.uint8]) -> ImageFeatures:
        """See `job.model.session.Session`."""
        return self._session.encode_images(pixels)

    def ground(self, features: ImageFeatures, text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        """Ground with the threshold that selects the fixed number of queries."""
        found = self._session.ground(features, text, self.threshold)
        return (self._answer,) * len(found)

    def encode_text(self, token_ids: NDArray[np.int64]) -> TextFeatures:
        """See `job.model.session.Session`."""
        return self._session.encode_text(token_ids)

    def without_model(self) -> FixedAnswers:
        """The same answers without the work."""
        return FixedAnswers(self._session, self.threshold, self._answer)


class FixedAnswers(FixedSelection):
    """Answers with the fixed instances at once; for the stages of the host alone."""

    def encode_images(self, pixels: NDArray[np.uint8]) -> ImageFeatures:
        """Return the pixels."""
        return pixels

    def ground(self, features: ImageFeatures, text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        """Return the fixed instances for each image."""
        images: Sized = features  # type: ignore[assignment]
        return (self._answer,) * len(images)


def fixed_selection(session: Session, text: TextFeatures, pixels: NDArray[np.uint8]) -> FixedSelection:
    """Find the threshold that selects `INSTANCES` queries of an image, and wrap the session.

    Args:
        session: The real session.
        text: The prompts.
        pixels: uint8 (1, S, S, 3).
    """
    features = session.encode_images(pixels)
    scores = session.ground(features, text, 1.0)[0].scores
    threshold = threshold_for(scores, INSTANCES)
    (found,) = session.ground(features, text, threshold)
    height, width = found.mask_logits.shape[1:]
    prompts, queries = scores.shape
    return FixedSelection(session, threshold, fixed_grounding((prompts, queries), (height, width)))
