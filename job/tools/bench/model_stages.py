"""Milliseconds of the model, by stage."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.model.session import TextFeatures

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from job.model.session import Session

MIN_REPEATS, MAX_REPEATS = 3, 30
BUDGET_S = 6.0
"""Repeats of one measurement end here, after the smallest number of them."""


@dataclass(frozen=True)
class ModelMs:
    """Milliseconds an image, medians.

    Attributes:
        encoder: The image encoder.
        grounding: All prompts, without masks.
        prompt: One prompt alone, without masks.
        masks: What the selected masks of all prompts add.
    """

    encoder: float
    grounding: float
    prompt: float
    masks: float


def model_stages(session: Session, text: TextFeatures, pixels: NDArray[np.uint8], threshold: float) -> ModelMs:
    """Measure a whole batch of one picture.

    Args:
        session: The session.
        text: All prompts.
        pixels: uint8 (1, S, S, 3).
        threshold: Selects the masks of the mask output.
    """
    batch_size = session.info.batch_size
    batch = np.repeat(pixels, batch_size, axis=0)
    features = session.encode_images(batch)
    encoder = median_ms(lambda: session.encode_images(batch))
    one = TextFeatures(text.features[:1], text.mask[:1])
    without, prompt, with_masks = paired_ms(
        lambda: session.ground(features, text, 1.0),
        lambda: session.ground(features, one, 1.0),
        lambda: session.ground(features, text, threshold),
    )
    each = (encoder, without, prompt, max(0.0, with_masks - without))
    return ModelMs(*(ms / batch_size for ms in each))


def median_ms(call: Callable[[], object]) -> float:
    """Median milliseconds of a call."""
    return paired_ms(call)[0]


def paired_ms(*calls: Callable[[], object]) -> tuple[float, ...]:
    """Median milliseconds of each call, measured in turns: other load on the machine meets all of them."""
    seconds: list[list[float]] = [[] for _ in calls]
    end_s = time.perf_counter() + BUDGET_S
    for turn in range(MAX_REPEATS):
        if turn >= MIN_REPEATS and time.perf_counter() > end_s:
            break
        for call, taken in zip(calls, seconds, strict=True):
            begun_s = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begun_s)
    return tuple(1e3 * statistics.median(taken) for taken in seconds)
