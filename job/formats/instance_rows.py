"""From an annotation to the rows of the instance table, and from the rows to the painted mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from job.formats.gva import Origin
from job.formats.instance_table import InstanceRow, Rle
from job.formats.rle import decode_cropped, encode_rle
from job.postprocess.annotate import Annotation
from job.postprocess.candidates import Candidates
from job.postprocess.instances import Instance
from job.postprocess.parents import find_parents

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageFacts:
    """What every row of an image repeats.

    Attributes:
        json: Key of the JSON of the input.
        image: Key of the image.
        origin: Camera, garage and time.
        orientation: EXIF orientation of the raster as stored, 1 to 8.
    """

    json: str
    image: str
    origin: Origin
    orientation: int


def rows_of(annotation: Annotation, facts: ImageFacts) -> list[InstanceRow]:
    """The rows of one image.

    Its instances in their order, then those beyond 255; one row without a class if there is none. Then its candidates,
    highest score first.
    """
    size_hw = annotation.size_hw
    rows = [
        _row(instance, facts, value=value, visible_area=visible, parent=parent)
        for instance, value, visible, parent in zip(
            annotation.instances, annotation.values, annotation.visible_areas, annotation.parents, strict=True
        )
    ]
    rows.extend(_rows_beyond(annotation, facts))
    rows = rows or [row_without_instance(facts, size_hw)]
    rows.extend(_candidate_rows(annotation.candidates, facts))
    return [msgspec.structs.replace(row, cut=True) for row in rows] if annotation.candidates.cut else rows


def paint_rows(rows: Sequence[InstanceRow], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Paint the masks of an image's rows as the mask of its NPZ: in ascending order of their values.

    Args:
        rows: All rows of the image; those without a value are not painted.
        size_hw: Height and width of the raster as stored, in pixels.

    Returns:
        uint8 (H, W).

    Raises:
        InputError: A mask is damaged.
    """
    painted = np.zeros(size_hw, np.uint8)
    valued = [(row.value, row.rle) for row in rows if row.value is not None and row.rle is not None]
    for value, rle in sorted(valued, key=lambda pair: pair[0]):
        mask = decode_cropped(rle.counts, size_hw)
        x0, y0, x1, y1 = mask.box_xyxy
        painted[y0:y1, x0:x1][mask.crop()] = value
    return painted


def _rows_beyond(annotation: Annotation, facts: ImageFacts) -> Iterator[InstanceRow]:
    passengers = annotation.rules.passengers
    parents = find_parents(annotation.beyond_255, annotation.instances, annotation.values, passengers)
    for instance, parent in zip(annotation.beyond_255, parents, strict=True):
        yield _row(instance, facts, value=None, visible_area=None, parent=parent)


def _candidate_rows(candidates: Candidates, facts: ImageFacts) -> Iterator[InstanceRow]:
    for one in candidates.listed:
        row = _row(one.instance, facts, value=None, visible_area=None, parent=None)
        yield msgspec.structs.replace(row, candidate=one.reason)


def _row(
    instance: Instance, facts: ImageFacts, *, value: int | None, visible_area: int | None, parent: int | None
) -> InstanceRow:
    mask = instance.mask
    return msgspec.structs.replace(
        row_without_instance(facts, mask.size_hw),
        class_name=instance.class_name,
        prompt=instance.prompt,
        query=instance.query,
        score=instance.score,
        value=value,
        box=mask.box_xyxy,
        area=mask.area,
        visible_area=visible_area,
        rle=Rle(mask.size_hw, encode_rle(mask, mask.size_hw)),
        parent=parent,
    )


def row_without_instance(facts: ImageFacts, size_hw: tuple[int, int]) -> InstanceRow:
    """The row of an image without instances; `size_hw` is that of the raster as stored, in pixels."""
    height, width = size_hw
    origin = facts.origin
    return InstanceRow(
        json=facts.json,
        image=facts.image,
        width=width,
        height=height,
        orientation=facts.orientation,
        camera=origin.camera,
        garage=origin.garage,
        timestamp_ms=origin.timestamp_ms,
    )
