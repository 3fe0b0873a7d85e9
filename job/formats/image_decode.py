"""Image files to what the model sees: header first, then pixels, upright, RGB, resized to the model's square."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from job.errors import InputError
from job.formats.image_resize import resize_to_square

if TYPE_CHECKING:
    from numpy.typing import NDArray

Image.MAX_IMAGE_PIXELS = None  # `open_header` holds the limit, with a reason that names the flag
ImageFile.LOAD_TRUNCATED_IMAGES = False

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""What a file named .jpg may be. Of the others that Pillow knows, it starts a program for EPS, and turns TIFF upright
by itself, so that the raster as stored is not to be had."""
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BYTES_PER_PIXEL = {"L": 1, "P": 1, "1": 1}
_PILLOW_RGB_BYTES = 4
_RESIZE_BYTES = 32 << 20
"""Bands of rows of the resize, and the picture once it is narrowed."""


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before anything is decoded.

    Attributes:
        size_hw: Height and width of the raster as stored, in pixels.
        orientation: EXIF orientation, 1 to 8; 1 when there is none or it is nonsense.
        decode_bytes: Memory that `decode` needs at most, in bytes.
    """

    size_hw: tuple[int, int]
    orientation: int
    decode_bytes: int

    @property
    def upright_size_hw(self) -> tuple[int, int]:
        """Height and width of the picture as a person sees it."""
        height, width = self.size_hw
        return (width, height) if self.orientation in _SIDEWAYS else (height, width)


def read_header(data: bytes, max_pixels: int) -> Header:
    """Read size and orientation; nothing is decoded.

    Args:
        data: The image file.
        max_pixels: Largest height times width.

    Raises:
        InputError: Not an image that can be read, or too large.
    """
    with _mapped_errors(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(
                f"image has {width} x {height} pixels, allowed are {max_pixels}: raise --max_image_pixels to take it"
            )
        orientation = _orientation(image)
        return Header((height, width), orientation, _decode_bytes(image, orientation))


def decode_upright(data: bytes) -> Image.Image:
    """Decode to RGB as a person sees it.

    Raises:
        InputError: The file is truncated or damaged.
    """
    with _mapped_errors(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        turn = _TO_UPRIGHT.get(_orientation(image))  # before the pixels, like `read_header`
        image.load()
        upright = image if turn is None else image.transpose(turn)
        return upright if upright.mode == "RGB" else upright.convert("RGB")


def decode_for_model(data: bytes, side: int) -> NDArray[np.uint8]:
    """Decode, turn upright and resize.

    Args:
        data: The image file.
        side: Side of the model's square, in pixels.

    Returns:
        uint8 (side, side, 3), RGB, 0 to 255.

    Raises:
        InputError: The file is truncated or damaged.
    """
    return resize_to_square(decode_upright(data), side)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation as far as it stands before the pixels: a PNG's own `getexif` decodes to look behind them."""
    orientation = Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1)
    return int(orientation) if orientation in range(1, 9) else 1


def _decode_bytes(image: Image.Image, orientation: int) -> int:
    """Pillow holds RGB in four bytes a pixel; a conversion and a transposition each hold two rasters at once."""
    width, height = image.size
    stored = _BYTES_PER_PIXEL.get(image.mode, _PILLOW_RGB_BYTES)
    copies = _PILLOW_RGB_BYTES if image.mode != "RGB" else 0
    turned = _PILLOW_RGB_BYTES if orientation != 1 else 0
    return width * height * (stored + copies + turned) + _RESIZE_BYTES


@contextmanager
def _mapped_errors() -> Iterator[None]:
    """Pillow's many ways to say that a file is bad."""
    try:
        yield
    except UnidentifiedImageError as exc:
        raise InputError("image is not in a format that can be read") from exc
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        struct.error,
    ) as exc:
        raise InputError(f"image cannot be decoded: {exc}") from exc
