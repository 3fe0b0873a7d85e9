"""Decode image files into the model's input: header, then pixels, upright, RGB, resized to the model's square."""

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
from job.formats.file_type import READABLE, describe, unsupported_jpeg
from job.formats.image_resize import resize_to_square
from job.formats.jpeg_scan import check_scans, decode_whole
from job.postprocess.orientation import read_orientation, swap_if_sideways, turn_pixels_upright, turn_upright

if TYPE_CHECKING:
    from numpy.typing import NDArray

Image.MAX_IMAGE_PIXELS = None  # `read_header` enforces the limit, with a reason that names the flag
ImageFile.LOAD_TRUNCATED_IMAGES = False

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""Formats that are accepted whatever the file's name. Of the others that Pillow supports, EPS runs an external program,
and TIFF is turned upright by Pillow itself, so the stored raster is not available."""
_INTEGER_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_INTEGER_MAX = 0xFFFF
_BYTES_PER_PIXEL = {"L": 1, "P": 1, "1": 1}
_PILLOW_RGB_BYTES = 4
_PROGRESSIVE_BYTES = 6
"""Coefficients of a progressive JPEG: 16 bits for each of three components."""
_RESIZE_BYTES = 32 << 20
"""Bands of rows of the resize, and the image once it is narrowed."""


@dataclass(frozen=True)
class Header:
    """Metadata of an image file, read before anything is decoded.

    Attributes:
        size_hw: Height and width of the raster as stored, in pixels.
        orientation: EXIF orientation, 1 to 8; 1 if there is none or it is invalid.
        decode_bytes: Maximum memory that decoding needs, in bytes.
    """

    size_hw: tuple[int, int]
    orientation: int
    decode_bytes: int

    @property
    def upright_size_hw(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return swap_if_sideways(self.size_hw, self.orientation)


def read_header(data: bytes, max_pixels: int) -> Header:
    """Read size and orientation; decodes nothing.

    Args:
        data: The image file.
        max_pixels: Maximum of height times width.

    Raises:
        InputError: The format is not supported, or the image is too large.
    """
    with _mapped_errors(data), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(
                f"image has {width} x {height} pixels, allowed are {max_pixels}: raise --max_image_pixels to take it"
            )
        orientation = read_orientation(image)
        return Header((height, width), orientation, _decode_bytes(image, orientation))


def decode_upright(data: bytes) -> Image.Image:
    """Decode to upright RGB.

    Raises:
        InputError: The file is truncated or damaged.
    """
    with _mapped_errors(data), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return upright_image(image)


def upright_image(image: Image.Image) -> Image.Image:
    """Turn an open image upright by its orientation and convert it to RGB.

    Raises:
        InputError: It has floating-point samples.
        OSError: Its file is truncated or damaged.
    """
    orientation = read_orientation(image)  # before the pixels, like `read_header`
    image.load()
    upright = turn_upright(_to_8_bits(image), orientation)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


@dataclass(frozen=True)
class ModelInput:
    """An image as the model sees it.

    Attributes:
        pixels: uint8 (side, side, 3), RGB, 0 to 255.
        damage: libjpeg's warning about a JPEG that is damaged but whole; None if there is none.
    """

    pixels: NDArray[np.uint8]
    damage: str | None


def decode_for_model(data: bytes, side: int) -> ModelInput:
    """Decode, turn upright and resize.

    A colour JPEG that libjpeg decodes without a warning is decoded once. Any other file is decoded by Pillow, and the
    scans of a JPEG are then checked.

    Args:
        data: The image file.
        side: Side of the model's square, in pixels.

    Raises:
        InputError: The file is truncated or damaged.
    """
    with _mapped_errors(data), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        whole = decode_whole(data) if image.mode == "RGB" else None
        if whole is not None and whole.shape[:2] == (image.height, image.width):
            return ModelInput(resize_to_square(turn_pixels_upright(whole, read_orientation(image)), side), None)
        picture = upright_image(image)
    return ModelInput(resize_to_square(picture, side), check_scans(data))


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale samples of more than 8 bits to 8 bits by the range of their format; other modes are returned as they are.

    A 16-bit sample keeps its high byte, as Pillow and libpng do with 16-bit colour. Of the formats that are read, only
    PNG has such modes, and its samples span 0 to 65535 (ISO/IEC 15948, 12.5); floats have no range to scale by.

    Raises:
        InputError: Samples outside 0 to 65535, or floats.
    """
    if image.mode == "F":
        raise InputError("image has floating-point samples, which have no defined range: convert it to 8 or 16 bits")
    if image.mode not in _INTEGER_MODES:
        return image
    samples = np.asarray(image)
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high > _INTEGER_MAX:
        raise InputError(f"image has samples from {low} to {high}, allowed are 0 to {_INTEGER_MAX}: convert it")
    return Image.fromarray((samples >> 8).astype(np.uint8))


def _decode_bytes(image: Image.Image, orientation: int) -> int:
    """Pillow stores RGB in four bytes per pixel; a conversion and a transposition each hold two rasters at once."""
    width, height = image.size
    stored = _BYTES_PER_PIXEL.get(image.mode, _PILLOW_RGB_BYTES)
    copies = _PILLOW_RGB_BYTES if image.mode != "RGB" else 0
    turned = _PILLOW_RGB_BYTES if orientation != 1 else 0
    coefficients = _PROGRESSIVE_BYTES if "progressive" in image.info else 0
    return width * height * (stored + copies + turned + coefficients) + _RESIZE_BYTES


@contextmanager
def _mapped_errors(data: bytes) -> Iterator[None]:
    """Map the exceptions that Pillow raises for invalid files."""
    try:
        yield
    except UnidentifiedImageError as exc:
        raise InputError(_unreadable(describe(data))) from exc
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
        kind = unsupported_jpeg(data)
        raise InputError(_unreadable(kind) if kind else f"image cannot be decoded: {exc}") from exc


def _unreadable(kind: str) -> str:
    return f"image is not in a format that can be read: it is {kind}. {READABLE} can be read"
