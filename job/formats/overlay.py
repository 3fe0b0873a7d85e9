"""Overlays for visual review: masks, classes and scores drawn over the image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from job.formats.image_decode import decode_upright, read_header
from job.postprocess.annotate import Annotation
from job.postprocess.orientation import turn_upright
from job.run.options import OverlayFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rgb = tuple[int, int, int]
Rect = tuple[float, float, float, float]
Box = tuple[slice, slice]

# Okabe and Ito, "Color Universal Design" (2008): distinguishable with every kind of colour vision.
CLASS_COLOURS: dict[str, Rgb] = {
    "car": (0, 114, 178),
    "license_plate": (240, 228, 66),
    "person": (213, 94, 0),
    "passenger": (204, 121, 167),
}
OTHER_COLOURS: tuple[Rgb, ...] = ((0, 158, 115), (86, 180, 233), (230, 159, 0))

_FILL_OPACITY = 0.4
_MIN_FONT, _MAX_FONT = 10, 64
_FONT_PER_SIDE = 1 / 45
"""Height of a label as a fraction of the shorter side of the image."""
_CONTOUR_PER_SIDE = 1 / 360
_MAX_LABEL_DISTANCE = 5
"""Maximum distance between an instance and the far edge of its label, in heights of the label."""
_SUFFIXES: dict[OverlayFormat, str] = {"jpeg": ".jpg", "webp": ".webp", "png": ".png"}
_SAVE_OPTIONS: dict[OverlayFormat, dict[str, Any]] = {
    "jpeg": {"format": "JPEG", "quality": 85, "subsampling": 0},
    "webp": {"format": "WEBP", "quality": 80, "method": 2},
    "png": {"format": "PNG", "compress_level": 3},
}
"""JPEG without chroma subsampling: contours are a few pixels wide."""
_MAX_SIDE: dict[OverlayFormat, int] = {"jpeg": 65_500, "webp": 16_383, "png": (1 << 31) - 1}
"""Limits of the encoders: libjpeg's JPEG_MAX_DIMENSION, WebP's 14 bits, PNG's 31 bits."""


@dataclass(frozen=True)
class OverlayEncoding:
    """How overlays are stored.

    Attributes:
        format: File format.
        side: Maximum of height and width, in pixels; None for the size of the image.
    """

    format: OverlayFormat = "jpeg"
    side: int | None = None

    @property
    def suffix(self) -> str:
        """Suffix of the file's name, as in `.jpg`."""
        return _SUFFIXES[self.format]


@dataclass(frozen=True)
class OverlayLabel:
    """Label of one instance.

    Attributes:
        class_name: Its class.
        score: 0 to 1; None if the annotator gave none.
        value: Its value in the painted mask, 1 to 255.
        colour: Its colour; None for that of its class.
    """

    class_name: str
    score: float | None
    value: int
    colour: Rgb | None = None

    @property
    def text(self) -> str:
        """As in `license plate 0.87`."""
        name = self.class_name.replace("_", " ")
        return name if self.score is None else f"{name} {self.score:.2f}"


def encode_overlay(image_file: bytes, annotation: Annotation, encoding: OverlayEncoding) -> bytes:
    """Draw an annotation over its upright image and encode the result.

    Args:
        image_file: The image.
        annotation: Annotation of the stored raster.
        encoding: Format and maximum size of the overlay.

    Returns:
        The file of the overlay.
    """
    side = min(_MAX_SIDE[encoding.format], encoding.side or _MAX_SIDE[encoding.format])
    colours = {one.name: _rgb(one.colour) for one in annotation.rules.classes if one.colour is not None}
    labels = [
        OverlayLabel(instance.class_name, instance.score, value, colours.get(instance.class_name))
        for instance, value in zip(annotation.instances, annotation.values, strict=True)
    ]
    buffer = io.BytesIO()
    draw_over_file(image_file, annotation.mask, labels, side).save(buffer, **_SAVE_OPTIONS[encoding.format])
    return buffer.getvalue()


def draw_over_file(
    image_file: bytes, mask: NDArray[np.uint8], labels: Sequence[OverlayLabel], side: int | None = None
) -> Image.Image:
    """Draw over an image file.

    Args:
        image_file: The image.
        mask: uint8 (H, W), painted, in the stored raster.
        labels: Labels of the instances in the mask.
        side: Maximum of height and width of the result, in pixels; a larger image is reduced before drawing.

    Returns:
        RGB, upright.
    """
    image = decode_upright(image_file)
    orientation = read_header(image_file, image.width * image.height).orientation
    upright_mask = turn_upright(Image.fromarray(mask), orientation)
    scale = min(1.0, (side or max(image.size)) / max(image.size))
    if scale < 1:
        size_wh = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size_wh, Image.Resampling.BILINEAR, reducing_gap=2.0)
        upright_mask = upright_mask.resize(size_wh, Image.Resampling.NEAREST)
    return draw_overlay(image, np.asarray(upright_mask), labels)


def draw_overlay(image: Image.Image, mask: NDArray[np.uint8], labels: Sequence[OverlayLabel]) -> Image.Image:
    """Draw over an image.

    Args:
        image: RGB.
        mask: uint8 (H, W), painted, in the frame of the image.
        labels: Labels of the instances in the mask.

    Returns:
        RGB, of the same size.
    """
    colours = _colour_of_classes(labels)
    pixels = np.array(image)
    line = max(1, round(min(image.size) * _CONTOUR_PER_SIDE))
    boxed = [(label, box) for label in labels if (box := _box_of(mask, label.value)) is not None]
    for label, box in boxed:
        _tint(pixels[box], mask[box] == label.value, colours[label.class_name], line)
    drawn = Image.fromarray(pixels)
    _write_labels(drawn, boxed, colours)
    return drawn


def _colour_of_classes(labels: Sequence[OverlayLabel]) -> dict[str, Rgb]:
    others = sorted({label.class_name for label in labels} - set(CLASS_COLOURS))
    chosen = {label.class_name: label.colour for label in labels if label.colour is not None}
    palette = {name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(others)}
    return CLASS_COLOURS | palette | chosen


def _rgb(colour: str) -> Rgb:
    """`#d55e00` as red, green, blue."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _box_of(mask: NDArray[np.uint8], value: int) -> Box | None:
    inside = mask == value
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows) == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _tint(pixels: NDArray[np.uint8], inside: NDArray[np.bool_], colour: Rgb, line: int) -> None:
    """Fill an instance with its semi-transparent colour and draw its contour inside its edge, in place."""
    for channel, strength in enumerate(colour):
        plane = pixels[..., channel]
        tinted = np.arange(256) * (1 - _FILL_OPACITY) + strength * _FILL_OPACITY
        np.copyto(plane, tinted.astype(np.uint8)[plane], where=inside)
    pixels[inside & ~_eroded(inside, line)] = colour


def _eroded(inside: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    result = np.pad(inside, 1)
    for _ in range(pixels):
        inner = result[1:-1, 1:-1] & result[:-2, 1:-1] & result[2:, 1:-1] & result[1:-1, :-2] & result[1:-1, 2:]
        result = np.pad(inner, 1)
    return result[1:-1, 1:-1]


def _write_labels(image: Image.Image, boxed: Sequence[tuple[OverlayLabel, Box]], colours: dict[str, Rgb]) -> None:
    size = min(_MAX_FONT, max(_MIN_FONT, round(min(image.size) * _FONT_PER_SIDE)))
    font, draw, occupied = ImageFont.load_default(size), ImageDraw.Draw(image), list[Rect]()
    pad = max(1, size // 6)
    for label, box in boxed:
        left, top, right, bottom = draw.textbbox((0, 0), label.text, font=font)
        position = _label_position((right - left + 2 * pad, bottom - top + 2 * pad), box, image.size, occupied)
        occupied.append(position)
        draw.rectangle(position, fill=colours[label.class_name])
        ink = (0, 0, 0) if _is_light(colours[label.class_name]) else (255, 255, 255)
        draw.text((position[0] + pad - left, position[1] + pad - top), label.text, font=font, fill=ink)


def _label_position(
    size_wh: tuple[float, float], box: Box, image_wh: tuple[int, int], occupied: Sequence[Rect]
) -> Rect:
    """The position near an instance, inside the image, that overlaps earlier labels least; ties: the first.

    Candidates are above, in and below the instance; then, if all of these are occupied, further away.
    """
    width, height = size_wh
    rows, columns = box
    near = (rows.start - height, rows.start, rows.stop, rows.stop - height, (rows.start + rows.stop - height) // 2)
    far = (y for i in range(1, _MAX_LABEL_DISTANCE) for y in (rows.start - (i + 1) * height, rows.stop + i * height))
    candidates = [(x, y) for y in (*near, *far) for x in (columns.start, columns.stop - width)]
    positions = []
    for x, y in candidates:
        x = min(max(0.0, x), max(0.0, image_wh[0] - width))
        y = min(max(0.0, y), max(0.0, image_wh[1] - height))
        positions.append((x, y, x + width, y + height))
    return min(positions, key=lambda position: sum(_overlap_area(position, other) for other in occupied))


def _overlap_area(a: Rect, b: Rect) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _is_light(colour: Rgb) -> bool:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
