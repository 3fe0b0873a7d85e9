"""EXIF orientation: how it is read, and how rasters turn between the stored and the upright frame.

The upright frame is the image as a viewer shows it; the stored frame is the raster in the file (CIPA DC-008, tag 274).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORIENTATION_TAG = 0x0112
_EXIF_FIELDS = ("exif", "Raw profile type exif")
_XMP_FIELDS = ("XML:com.adobe.xmp", "xmp")


class Turn(NamedTuple):
    """How a stored raster of one orientation becomes upright, and back.

    Attributes:
        to_upright: Pillow's operation from the stored to the upright frame.
        transposed: Whether the way back begins with a transposition.
        flipped_y: Whether the way back then reverses the rows.
        flipped_x: Whether the way back then reverses the columns.
    """

    to_upright: Image.Transpose
    transposed: bool
    flipped_y: bool
    flipped_x: bool


TURNS = {
    2: Turn(Image.Transpose.FLIP_LEFT_RIGHT, transposed=False, flipped_y=False, flipped_x=True),
    3: Turn(Image.Transpose.ROTATE_180, transposed=False, flipped_y=True, flipped_x=True),
    4: Turn(Image.Transpose.FLIP_TOP_BOTTOM, transposed=False, flipped_y=True, flipped_x=False),
    5: Turn(Image.Transpose.TRANSPOSE, transposed=True, flipped_y=False, flipped_x=False),
    6: Turn(Image.Transpose.ROTATE_270, transposed=True, flipped_y=True, flipped_x=False),
    7: Turn(Image.Transpose.TRANSVERSE, transposed=True, flipped_y=True, flipped_x=True),
    8: Turn(Image.Transpose.ROTATE_90, transposed=True, flipped_y=False, flipped_x=True),
}
"""By orientation; 1 is upright as stored and has no entry."""


def read_orientation(image: Image.Image) -> int:
    """Read the orientation from metadata that precede the pixels; decodes nothing.

    EXIF is used first, then XMP's `tiff:Orientation`, as Pillow does. A damaged EXIF segment counts as absent.

    Returns:
        1 to 8; 1 if there is no orientation or its value is invalid.
    """
    for fields in ((*_EXIF_FIELDS, *_XMP_FIELDS), _XMP_FIELDS):
        # An image of its own: a PNG's `getexif` decodes the pixels to find EXIF behind them, and a JPEG's keeps the
        # state of a parse that failed.
        probe = Image.Image()
        probe.info = {name: image.info[name] for name in fields if name in image.info}
        try:
            value = probe.getexif().get(ORIENTATION_TAG, 1)
        except (SyntaxError, ValueError, OSError, TypeError, KeyError, IndexError, OverflowError, struct.error):
            continue
        return int(value) if value in range(1, 9) else 1
    return 1


def swap_if_sideways(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Convert a size between the stored and the upright frame: orientations 5 to 8 exchange height and width."""
    turn = TURNS.get(orientation)
    return (size[1], size[0]) if turn is not None and turn.transposed else size


def turn_upright(stored: Image.Image, orientation: int) -> Image.Image:
    """Turn a stored raster upright."""
    turn = TURNS.get(orientation)
    return stored if turn is None else stored.transpose(turn.to_upright)


def turn_pixels_upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn the pixels of a stored raster, uint8 (H, W, 3), upright; gives a view."""
    turn = TURNS.get(orientation)
    if turn is None:
        return stored
    upright = stored[:: -1 if turn.flipped_y else 1, :: -1 if turn.flipped_x else 1]
    return upright.transpose(1, 0, 2) if turn.transposed else upright
