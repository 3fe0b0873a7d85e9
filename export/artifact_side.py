"""The artifact at work, through the session that the worker uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from export.parity import Answer
from job.text import text_features_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from job.artifact import Artifact
    from job.session import Session


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
        masks = tuple(upsampled(logits, size_hw) for logits in grounding.mask_logits)
        return Answer(scores=grounding.scores, selected=grounding.selected, masks=masks)


def upsampled(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask logits (h, w) to the mask of a picture, by the operation that the original uses."""
    resized = F.interpolate(torch.from_numpy(logits)[None, None], size_hw, mode="bilinear", align_corners=False)
    mask: NDArray[np.bool_] = (resized[0, 0] > 0).numpy()
    return mask
