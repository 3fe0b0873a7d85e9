"""Draws people: standing in the garage, or behind the glass of a car."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from export.demo_model.scenes.drawing import Canvas, Point, rectangle, rgb, shade

PERSON = "person"
_SKINS = ((255, 220, 185), (232, 190, 150), (200, 150, 110), (150, 100, 70), (95, 62, 45))
_HAIRS = ((30, 22, 18), (90, 60, 30), (150, 120, 70), (120, 120, 120))
_SHADOW, _SHOE = (35, 35, 38), (25, 22, 20)


@dataclass(frozen=True)
class _Build:
    """Dimensions of a person in pixels, and colours."""

    x: float
    ground_y: float
    height: float
    head: float
    shoulder: float
    stride: float
    skin: NDArray[np.float64]
    top: NDArray[np.float64]
    legs: NDArray[np.float64]

    @property
    def hip_y(self) -> float:
        return self.ground_y - self.height * 0.48

    @property
    def shoulder_y(self) -> float:
        return self.ground_y - self.height * 0.83


def draw_person(canvas: Canvas, rng: np.random.Generator, foot: Point, height: float) -> None:
    """Paint a standing person.

    Args:
        canvas: Where to paint.
        rng: Random number generator.
        foot: Point (x, y) between the feet, in pixels.
        height: Pixels from head to foot.
    """
    number = canvas.new_number()
    build = _Build(
        x=foot[0],
        ground_y=foot[1],
        height=height,
        head=height * rng.uniform(0.062, 0.078),
        shoulder=height * rng.uniform(0.11, 0.15),
        stride=height * rng.uniform(0.02, 0.09) * rng.choice([-1, 1]),
        skin=_skin(rng),
        top=rng.uniform(20, 240, 3),
        legs=rng.uniform(15, 150, 3),
    )
    canvas.ellipse(foot, (height * 0.16, height * 0.03), _SHADOW)
    for side in (-1, 1):
        _draw_leg(canvas, build, side, number)
        _draw_arm(canvas, build, side, rng.uniform(0.0, 0.12) * height, number)
    _draw_trunk(canvas, build, number)
    _draw_head(canvas, build, _hair(rng), number)
    canvas.complete(number, PERSON)


def draw_passenger(canvas: Canvas, rng: np.random.Generator, window: list[Point], seat: Point, head: float) -> None:
    """Paint the part of a person's head and shoulders that is visible through a window.

    Args:
        canvas: Where to paint.
        rng: Random number generator.
        window: Corners of the window, in pixels.
        seat: Point (x, y) under the person at the window's lower edge.
        head: Half the height of the head, in pixels.
    """
    number = canvas.new_number()
    left, top = int(min(x for x, _ in window)), int(min(y for _, y in window))
    size_wh = (int(max(x for x, _ in window)) - left + 2, int(max(y for _, y in window)) - top + 2)
    picture, shape, glass = Image.new("RGB", size_wh), Image.new("L", size_wh), Image.new("L", size_wh)
    ImageDraw.Draw(glass).polygon([(x - left, y - top) for x, y in window], fill=255)
    _draw_bust((ImageDraw.Draw(picture), ImageDraw.Draw(shape)), rng, (seat[0] - left, seat[1] - top), head)
    canvas.inner_picture(picture, ImageChops.multiply(shape, glass), (left, top), number)
    canvas.complete(number, PERSON, is_inner=True, is_passenger=True)


def _draw_bust(
    layers: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw], rng: np.random.Generator, seat: Point, head: float
) -> None:
    """Paint head and shoulders in colour on the first layer and in white on the second."""
    (x, base), centre_y = seat, seat[1] - head * 1.75
    skin, top, hair = shade(_skin(rng), rng.uniform(0.75, 1)), rng.uniform(30, 230, 3), _hair(rng)
    shoulders = [(x - head * 1.5, base), (x - head * 1.3, base - head * 0.6), (x, base - head * 0.9)]
    shoulders += [(x + head * 1.3, base - head * 0.6), (x + head * 1.5, base)]
    face = (x - head * 0.75, centre_y - head, x + head * 0.75, centre_y + head)
    picture, shape = layers
    picture.polygon(shoulders, fill=rgb(top))
    picture.ellipse(face, fill=rgb(skin))
    shape.polygon(shoulders, fill=255)
    shape.ellipse(face, fill=255)
    picture.chord((face[0], face[1], face[2], face[3] - head * 0.3), 180, 360, fill=rgb(hair))


def _draw_leg(canvas: Canvas, build: _Build, side: int, number: int) -> None:
    x, shoulder, step = build.x, build.shoulder * side, build.stride * side
    hip = [(x + shoulder * 0.75, build.hip_y), (x + shoulder * 0.05, build.hip_y)]
    ankle = [(x + shoulder * 0.2 + step, build.ground_y), (x + shoulder * 0.75 + step, build.ground_y)]
    canvas.polygon(hip + ankle, shade(build.legs, 1 if side > 0 else 0.85), number)
    shoe = rectangle(x + shoulder * 0.2 + step, build.ground_y, shoulder * 0.75, -build.height * 0.03)
    canvas.polygon(shoe, _SHOE, number)


def _draw_arm(canvas: Canvas, build: _Build, side: int, swing: float, number: int) -> None:
    shoulder, shoulder_y, hip_y = build.shoulder, build.shoulder_y, build.hip_y
    upper = [(build.x + side * shoulder * 0.8, shoulder_y)]
    upper += [(build.x + side * shoulder * 1.15, shoulder_y + build.height * 0.03)]
    lower = [build.x + side * (shoulder * 1.2 + swing), build.x + side * (shoulder * 0.85 + swing)]
    canvas.polygon(upper + [(x, hip_y) for x in lower], shade(build.top, 0.85), number)
    hand = (build.x + side * (shoulder * 1.02 + swing), hip_y + build.head * 0.1)
    canvas.ellipse(hand, (build.head * 0.4, build.head * 0.4), build.skin, number)


def _draw_trunk(canvas: Canvas, build: _Build, number: int) -> None:
    x, shoulder, top_y, hem_y = build.x, build.shoulder, build.shoulder_y, build.hip_y + build.height * 0.02
    outline = [(x - shoulder, top_y), (x - shoulder * 0.5, top_y - build.height * 0.02)]
    outline += [(x + shoulder * 0.5, top_y - build.height * 0.02), (x + shoulder, top_y)]
    outline += [(x + shoulder * 0.8, hem_y), (x - shoulder * 0.8, hem_y)]
    canvas.polygon(outline, build.top, number)


def _draw_head(canvas: Canvas, build: _Build, hair: NDArray[np.float64], number: int) -> None:
    x, head, neck = build.x, build.head, build.height * 0.04
    canvas.polygon(rectangle(x - head * 0.4, build.shoulder_y - neck, head * 0.8, neck), build.skin * 0.9, number)
    centre_y = build.shoulder_y - build.height * 0.03 - head
    canvas.ellipse((x, centre_y), (head, head * 1.2), build.skin, number)
    canvas.cap((x, centre_y - head * 0.175), (head, head * 1.075), hair, number)


def _skin(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(_SKINS[rng.integers(len(_SKINS))], np.float64)


def _hair(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(_HAIRS[rng.integers(len(_HAIRS))], np.float64)
