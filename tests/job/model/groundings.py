"""Answers of a session for one picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from job.model.session import Grounding, Session, TextFeatures


def ground(session: Session, pixels: NDArray[np.uint8], text: TextFeatures, threshold: float = 0.4) -> Grounding:
    return session.ground(session.encode_images(pixels), text, threshold)[0]


def assert_equal(one: Grounding, other: Grounding) -> None:
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.selected, other.selected)
    np.testing.assert_array_equal(one.mask_logits, other.mask_logits)
