"""One image in the pipeline: each stage returns a new value with more fields.

`PlannedInput` -> `LoadedItem` -> `DecodedItem` -> `InferredItem` -> `ProcessedItem` -> `EncodedItem` -> `StoredItem`
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
    """Result of the read stage: the files of one input.

    Attributes:
        planned: Its entry in the plan.
        image_key: Key of the image.
        image: The image file.
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
    """Result of the decode stage: the model's input, uint8 (S, S, 3) RGB."""

    loaded: LoadedItem
    header: Header
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class InferredItem:
    """Result of the infer stage: the answers of the model."""

    loaded: LoadedItem
    header: Header
    grounding: Grounding


@dataclass(frozen=True)
class ProcessedItem:
    """Result of the postprocess stage: instances in the stored raster, and its EXIF orientation."""

    loaded: LoadedItem
    annotation: Annotation
    orientation: int


@dataclass(frozen=True)
class EncodedItem:
    """Result of the encode stage: the bytes of the outputs, their journal row and their rows of the instance table."""

    loaded: LoadedItem
    npz: bytes
    json: bytes
    overlay: tuple[str, bytes] | None
    row: ResultRow
    instance_lines: bytes = b""


@dataclass(frozen=True)
class StoredItem:
    """Result of the write stage, or of the read stage for an input that needs no further one.

    Attributes:
        row: The journal row.
        instance_lines: Rows of the instance table as JSON Lines; empty for none.
    """

    row: ResultRow
    instance_lines: bytes = b""
