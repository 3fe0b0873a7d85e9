"""A canvas that records the object of every pixel.

Two layers of object numbers give exact masks. The outer layer holds cars and people, the inner layer holds plates and
passengers. Painting an outer object clears both layers there, so occlusion is exact and a plate stays inside the mask
of its car.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = Sequence[float] | NDArray[np.float64]

# Number of occluders that are not objects: cones, boxes, bins.
CLUTTER = 255
_UNPAINTED = 0
_MAX_OBJECTS = CLUTTER - 1


@dataclass(frozen=True)
class PaintedObject:
    """One painted object.

    Attributes:
        number: Its value in its layer, from 1.
        class_name: Its class.
        is_inner: Whether it is in the inner layer.
        is_passenger: Whether it is a person inside a car.
        full_area_px: Its pixels before occlusion.
    """

    number: int
    class_name: str
    is_inner: bool
    is_passenger: bool
    full_area_px: int


class Canvas:
    """Colours and object numbers of one picture.

    Attributes:
        width: Pixels.
        height: Pixels.
        picture: RGB picture.
        objects: Complete objects, in the order of completion.
    """

    def __init__(self, size_wh: tuple[int, int]) -> None:
        self.width, self.height = size_wh
        self.picture = Image.new("RGB", size_wh)
        self.objects: list[PaintedObject] = []
        self._outer, self._inner = Image.new("L", size_wh, _UNPAINTED), Image.new("L", size_wh, _UNPAINTED)
        self._draw, self._draw_outer, self._draw_inner = map(ImageDraw.Draw, (self.picture, self._outer, self._inner))
        self._numbers = 0

    def new_number(self) -> int:
        """Number for the next object.

        Raises:
            ValueError: A layer has no free number.
        """
        if self._numbers == _MAX_OBJECTS:
            raise ValueError(f"a scene holds at most {_MAX_OBJECTS} objects")
        self._numbers += 1
        return self._numbers

    def complete(self, number: int, class_name: str, *, is_inner: bool = False, is_passenger: bool = False) -> None:
        """Record an object after it is painted and before anything covers it."""
        area = int(np.count_nonzero(self.layer(is_inner=is_inner) == number))
        self.objects.append(PaintedObject(number, class_name, is_inner, is_passenger, area))

    def layer(self, *, is_inner: bool) -> NDArray[np.uint8]:
        """Object numbers (H, W)."""
        return np.asarray(self._inner if is_inner else self._outer)

    def polygon(self, points: Sequence[Point], colour: Colour, number: int = _UNPAINTED) -> None:
        """Paint a polygon, as part of the outer object `number` if given."""
        self._draw.polygon(points, fill=rgb(colour))
        if number:
            self._draw_outer.polygon(points, fill=number)
            self._draw_inner.polygon(points, fill=_UNPAINTED)

    def ellipse(self, centre: Point, radii: Point, colour: Colour, number: int = _UNPAINTED) -> None:
        """Paint an ellipse, as part of the outer object `number` if given; skips one smaller than a pixel."""
        box = _around(centre, radii)
        if min(radii) < 0.5:
            return
        self._draw.ellipse(box, fill=rgb(colour))
        if number:
            self._draw_outer.ellipse(box, fill=number)
            self._draw_inner.ellipse(box, fill=_UNPAINTED)

    def cap(self, centre: Point, radii: Point, colour: Colour, number: int) -> None:
        """Paint the upper half of an ellipse as part of an outer object: hair."""
        box = _around(centre, radii)
        self._draw.chord(box, 180, 360, fill=rgb(colour))
        self._draw_outer.chord(box, 180, 360, fill=number)

    def line(self, start: Point, end: Point, colour: Colour, width_px: int) -> None:
        """Paint a line; the object numbers under it stay."""
        self._draw.line((start, end), fill=rgb(colour), width=max(1, width_px))

    def inner_polygon(self, points: Sequence[Point], colour: Colour, number: int) -> None:
        """Paint a polygon with a dark rim as an inner object."""
        self._draw.polygon(points, fill=rgb(colour), outline=(25, 25, 25))
        self._draw_inner.polygon(points, fill=number)

    def inner_picture(self, picture: Image.Image, mask: Image.Image, corner: tuple[int, int], number: int) -> None:
        """Paste a picture through a mask (L, same size, 0 or 255) as an inner object."""
        self.picture.paste(picture, corner, mask)
        self._inner.paste(number, corner, mask)


def rgb(colour: Colour) -> tuple[int, int, int]:
    """Round a colour and clip it to 0..255."""
    red, green, blue = (int(max(0.0, min(255.0, float(value)))) for value in colour)
    return red, green, blue


def shade(colour: Colour, factor: float) -> NDArray[np.float64]:
    """Multiply a colour by a factor."""
    return np.asarray(colour, np.float64) * factor


def rectangle(left: float, top: float, width: float, height: float) -> list[Point]:
    """Corners of an upright rectangle."""
    right, bottom = left + width, top + height
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _around(centre: Point, radii: Point) -> tuple[float, float, float, float]:
    return centre[0] - radii[0], centre[1] - radii[1], centre[0] + radii[0], centre[1] + radii[1]
