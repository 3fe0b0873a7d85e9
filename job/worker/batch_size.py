"""The batch size of a GPU: the largest that fits, found at load, and fixed for the process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from job.errors import DeviceMemoryError
from job.model.artifact import Artifact
from job.model.prompts import stored_text_features
from job.model.session import Session, TextFeatures
from job.postprocess.painting import MAX_INSTANCES

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

OpenSession = Callable[[int], Session]
Probe = Callable[[Session], None]


def open_with_fitting_batch(open_session: OpenSession, wanted: int, probe: Probe) -> Session:
    """Open a session with the wanted batch size, halved until one batch fits into the memory of the device.

    A session that ran out of memory is closed before the next is opened: its memory may be in pieces.

    Args:
        open_session: Opens a session with a batch size.
        wanted: Images in one call, from 1.
        probe: Runs one whole batch.

    Raises:
        DeviceMemoryError: The weights, or one image, do not fit.
        DeviceError: The device failed.
    """
    batch_size = wanted
    while True:
        session = open_session(batch_size)
        if (reason := _out_of_memory(session, probe)) is None:
            logger.info("Batch size: %d%s", batch_size, "" if batch_size == wanted else f" ({wanted} do not fit)")
            return session
        del session
        if batch_size == 1:
            raise DeviceMemoryError(
                f"{reason}. Not even one image fits: free the memory that other processes hold (`nvidia-smi`), use an "
                "fp16 model or a GPU with more memory, or give --device cpu"
            )
        logger.warning("A batch of %d images does not fit into the memory of the device: trying half", batch_size)
        batch_size //= 2


def probe_of(artifact: Artifact, prompts: int) -> Probe:
    """Make the probe: a batch of black images with so many prompts, and the largest mask output that is painted."""
    stored = next(iter(stored_text_features(artifact).values()))
    text = TextFeatures(np.repeat(stored.features, prompts, axis=0), np.repeat(stored.mask, prompts, axis=0))

    def probe(session: Session) -> None:
        info = session.info
        pixels = np.zeros((info.batch_size, info.image_side, info.image_side, 3), np.uint8)
        features = session.encode_images(pixels)
        scores = session.ground(features, text, 1.0)[0].scores
        session.ground(features, text, threshold_for(scores, MAX_INSTANCES))

    return probe


def threshold_for(scores: NDArray[np.float32], count: int) -> float:
    """Score threshold that selects so many of the scores (P, Q), more only if scores are equal."""
    ranked = np.sort(np.nan_to_num(scores, nan=0.0), axis=None)[::-1]
    lowest = ranked[min(count, len(ranked)) - 1]
    return float(np.nextafter(lowest, np.float32(-1)))


def _out_of_memory(session: Session, probe: Probe) -> str | None:
    """Message of the error if the probe runs out of memory; the error itself would keep the session alive."""
    try:
        probe(session)
    except DeviceMemoryError as exc:
        return str(exc)
    return None
