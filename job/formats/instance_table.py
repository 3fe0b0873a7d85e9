"""The instance table: one row an instance with its whole mask, in gzip JSON Lines beside the journal.

`instances/<shard>/<attempt>-<n>.jsonl.gz` of a run belongs to the journal part `<attempt>-<n>` of the same shard. A
result row of the journal names the part that holds the rows of its image; rows that no journal row names do not count.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from job.errors import InputError
from job.run.instance_parts import pack_part
from job.storage.json_errors import JSON_ERRORS

MAX_PIXELS = (1 << 31) - 1
"""Largest raster of a row; no image that is annotated has more pixels."""
_Side = Annotated[int, Meta(ge=1, le=MAX_PIXELS)]
_Offset = Annotated[int, Meta(ge=0, le=MAX_PIXELS)]
_Value = Annotated[int, Meta(ge=1, le=255)]


class Rle(msgspec.Struct, frozen=True):
    """A mask as COCO stores it.

    Attributes:
        size: Height and width of the raster, in pixels.
        counts: Compressed counts; see `job.formats.rle`.
    """

    size: tuple[int, int]
    counts: str


class InstanceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One instance, or an image without instances (`class_name` and all that belongs to an instance are None).

    Attributes:
        json: Key of the JSON of the input.
        image: Key of the image.
        width: Width of the raster as stored, in pixels.
        height: Height of the raster as stored, in pixels.
        orientation: EXIF orientation of the raster as stored, 1 to 8.
        class_name: Class; `class` in the file.
        prompt: Prompt that found it.
        query: Query of the model that found it.
        score: 0 to 1, float32, not rounded.
        value: Value in the NPZ's mask, 1 to 255; None beyond 255 instances and for candidates.
        box: Tight box x0, y0, x1, y1 of the whole mask, pixels of the raster as stored; x1 and y1 are exclusive.
        area: Pixels of the whole mask.
        visible_area: Pixels that have its value in the NPZ's mask; None without a value.
        rle: The whole mask, before instances are painted over each other.
        parent: Value of the car that holds a plate or a passenger.
        camera: `source.camera` of the input's JSON.
        garage: `source.garage` of the input's JSON.
        timestamp_ms: `image.timestamp_ms` of the input's JSON.
        candidate: None: an instance of the output. `below_threshold`: its score is too low. `overlap`: it overlaps
            another instance.
        cut: Whether candidates of this image were left out because there were too many.
    """

    json: str
    image: str
    width: _Side
    height: _Side
    orientation: Annotated[int, Meta(ge=1, le=8)] = 1
    class_name: str | None = msgspec.field(default=None, name="class")
    prompt: str | None = None
    query: int | None = None
    score: float | None = None
    value: _Value | None = None
    box: tuple[_Offset, _Offset, _Offset, _Offset] | None = None
    area: int | None = None
    visible_area: int | None = None
    rle: Rle | None = None
    parent: _Value | None = None
    camera: str | None = None
    garage: str | None = None
    timestamp_ms: int | None = None
    candidate: str | None = None
    cut: bool = False

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the raster as stored, in pixels."""
        return self.height, self.width


_ROW = msgspec.json.Decoder(InstanceRow)


def encode_rows(rows: Iterable[InstanceRow]) -> bytes:
    """Rows as JSON Lines, not compressed."""
    return msgspec.json.Encoder().encode_lines(rows)


def encode_part(rows: Iterable[InstanceRow]) -> bytes:
    """Rows as a part: gzip JSON Lines."""
    return pack_part([encode_rows(rows)])


def decode_part(part: bytes) -> list[InstanceRow]:
    """The rows of a part.

    Raises:
        InputError: It is damaged, or an incompatible version wrote it.
    """
    try:
        rows = _ROW.decode_lines(gzip.decompress(part))
    except (EOFError, OSError, zlib.error, *JSON_ERRORS) as exc:
        raise InputError(f"instance table: {exc}") from exc
    if not rows:
        raise InputError("instance table: it has no rows")
    for row in rows:
        _check_size(row)
    return rows


def _check_size(row: InstanceRow) -> None:
    """Refuse a row whose mask is of another raster, before memory is taken for it."""
    height, width = row.size_hw
    if height * width > MAX_PIXELS or (row.rle is not None and row.rle.size != row.size_hw):
        size = row.size_hw if row.rle is None else row.rle.size
        raise InputError(f"instance table: a mask of {size} in a raster of {height} x {width} (height x width)")
