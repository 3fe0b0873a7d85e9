"""One image on its way: a value that gains fields from stage to stage and never goes back.

`PlannedInput` -> `LoadedItem` -> `DecodedItem` -> `InferredItem` -> `ProcessedItem` -> `EncodedItem` -> `ResultRow`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.formats import gva
from job.formats.image_decode import Header
from job.model.session import Grounding
from job.plan.plan import PlannedInput
from job.postprocess.annotate import Annotation
from job.run.journal import ResultRow
from job.storage.store import Fetched

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LoadedItem:
    """Read: the files of one input.

    Attributes:
        planned: The line of the plan.
        image_key: Key of the image.
        image: The image file, as it was fetched.
        document: The input's JSON.
        prior: The output's JSON of the same key, or None.
    """

    planned: PlannedInput
    image_key: str
    image: Fetched
    document: gva.Document
    prior: gva.Document | None


@dataclass(frozen=True)
class DecodedItem:
    """Decoded: what the model sees, uint8 (S, S, 3) RGB."""

    loaded: LoadedItem
    header: Header
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class InferredItem:
    """Inferred: what the model says."""

    loaded: LoadedItem
    header: Header
    grounding: Grounding


@dataclass(frozen=True)
class ProcessedItem:
    """Post-processed: instances in the stored raster."""

    loaded: LoadedItem
    annotation: Annotation


@dataclass(frozen=True)
class EncodedItem:
    """Encoded: the bytes of the output, and the journal's row about them."""

    loaded: LoadedItem
    npz: bytes
    json: bytes
    overlay: bytes | None
    row: ResultRow
