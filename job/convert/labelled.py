"""The values that converters get: one image with the instances that are written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from job.convert.masks import decode_mask
from job.formats.instance_table import InstanceRow, Rle
from job.postprocess.masks import Box, CroppedMask, reorient
from job.postprocess.orientation import swap_if_sideways

if TYPE_CHECKING:
    from job.convert.splitting import Side

_UPRIGHT = {6: 8, 8: 6}
"""Orientation whose way back to the stored raster is the way to the upright image; the others are their own."""


def upright_mask(mask: CroppedMask, orientation: int) -> CroppedMask:
    """A mask of the raster as stored, in the upright image; `orientation` is EXIF's, 1 to 8."""
    return reorient(mask, _UPRIGHT.get(orientation, orientation))


@dataclass(frozen=True)
class LabelledInstance:
    """One instance that is written.

    Attributes:
        row: Its row of the instance table.
        class_name: Its class as written.
        orientation: EXIF orientation of the image, 1 to 8.
        visible: Its visible part where that is written instead of the whole mask, in the raster as stored.
    """

    row: InstanceRow
    class_name: str
    orientation: int
    visible: Rle | None = None

    @property
    def rle(self) -> Rle:
        """Its mask in the raster as stored."""
        rle = self.visible or self.row.rle
        if rle is None:
            raise ValueError(f"{self.row.json}: the row of an instance has no mask")
        return rle

    @cached_property
    def mask(self) -> CroppedMask:
        """Its mask in the raster as stored; decoded when it is first used."""
        return decode_mask(self.rle)

    @cached_property
    def upright(self) -> CroppedMask:
        """Its mask in the upright image."""
        return upright_mask(self.mask, self.orientation)

    @property
    def box_xyxy(self) -> Box:
        """Tight box in the raster as stored."""
        return self.row.box if self.visible is None and self.row.box is not None else self.mask.box_xyxy

    @property
    def area(self) -> int:
        """Pixels of its mask."""
        return self.row.area if self.visible is None and self.row.area is not None else self.mask.area

    @property
    def score(self) -> float | None:
        """0 to 1; None if the annotation has none."""
        return self.row.score


@dataclass(frozen=True)
class LabelledImage:
    """One image that is written.

    Attributes:
        key: Key of its JSON.
        image: Key of its image.
        size_hw: Height and width of the raster as stored, in pixels.
        orientation: EXIF orientation of the image, 1 to 8.
        instances: In the order of the output.
        fields: A row of the image; its `camera`, `garage` and `timestamp_ms` count.
        is_visible_only: Whether there were no table rows, so that the masks are the visible parts.
        side: The part of the data set that it belongs to; empty without a split.
        number: Number of the image among those written, from 1.
        first_instance: Number of its first instance among those written, from 1.
    """

    key: str
    image: str
    size_hw: tuple[int, int]
    orientation: int
    instances: tuple[LabelledInstance, ...]
    fields: InstanceRow
    is_visible_only: bool = False
    side: Side = ""
    number: int = 0
    first_instance: int = 0

    @property
    def upright_size_hw(self) -> tuple[int, int]:
        """Height and width of the upright image, in pixels."""
        return swap_if_sideways(self.size_hw, self.orientation)
