"""The artifact at work, through the session that the worker uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from export.parity.metrics import Answer
from job.model.prompts import text_features_for
from job.postprocess.masks import logits_to_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from job.model.artifact import Artifact
    from job.model.session import Session


class ArtifactSide:
    """A session that answers for the artifact's own prompts."""

    def __init__(self, artifact: Artifact, session: Session, threshold: float) -> None:
        self._session = session
        self._threshold = threshold
        self._text = text_features_for(artifact, session, artifact.manifest.prompts)

    def answer(self, pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> Answer:
        """Answer for pixels (S, S, 3) that stand for a picture of the given size."""
        features = self._session.encode_images(pixels[None])
        (grounding,) = self._session.ground(features, self._text, self._threshold)
        masks = tuple(_full_mask(logits, size_hw) for logits in grounding.mask_logits)
        return Answer(scores=grounding.scores, selected=grounding.selected, masks=masks)


def _full_mask(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask logits (h, w) to the mask of a picture, by the code of the worker."""
    full = np.zeros(size_hw, np.bool_)
    mask = logits_to_mask(logits, size_hw)
    if mask is not None:
        x0, y0, x1, y1 = mask.box_xyxy
        full[y0:y1, x0:x1] = mask.crop()
    return full
