"""Draws the garage: walls, floor, lines, pillars, signs and clutter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from export.demo_model.scenes.drawing import CLUTTER, Canvas, rectangle, shade

_LINE_COLOURS = ((225, 225, 225), (220, 190, 60), (90, 150, 220))
_BAND_COLOURS = ((200, 170, 40), (60, 90, 180), (180, 50, 50))
_SIGN_COLOURS = ((240, 240, 240), (30, 110, 60), (30, 70, 170), (220, 200, 70))
_LAMP, _CONE, _CONE_BAND, _INK = (250, 250, 235), (235, 110, 30), (240, 240, 240), (20, 20, 20)


@dataclass(frozen=True)
class Room:
    """Properties of the room that the objects in it need.

    Attributes:
        horizon_y: Where the wall meets the floor, in pixels from the top.
        wall_level: Brightness of the wall, 0..255.
    """

    horizon_y: float
    wall_level: float


def draw_room(canvas: Canvas, rng: np.random.Generator) -> Room:
    """Paint an empty garage."""
    room = Room(horizon_y=canvas.height * rng.uniform(0.22, 0.42), wall_level=rng.uniform(70, 190))
    _draw_surfaces(canvas, rng, room)
    _draw_ceiling(canvas, rng, room)
    _draw_lines(canvas, rng, room)
    for _ in range(rng.integers(0, 4)):
        _draw_pillar(canvas, rng, room)
    for _ in range(rng.integers(0, 4)):
        _draw_sign(canvas, rng, room)
    return room


def draw_clutter(canvas: Canvas, rng: np.random.Generator, room: Room, ground_y: float) -> None:
    """Paint a cone, box or bin whose base is at `ground_y`."""
    nearness = (ground_y - room.horizon_y) / (canvas.height - room.horizon_y)
    x, height = rng.uniform(0, canvas.width), (0.06 + 0.14 * nearness) * canvas.height
    if rng.random() < 0.5:
        _draw_cone(canvas, x, ground_y, height)
        return
    width, colour = height * rng.uniform(0.6, 1.6), rng.uniform(30, 210, 3)
    canvas.polygon(rectangle(x, ground_y - height, width, height), colour, CLUTTER)
    back_y = ground_y - height * 1.15
    lid = [
        (x, ground_y - height),
        (x + width, ground_y - height),
        (x + width * 1.12, back_y),
        (x + width * 0.12, back_y),
    ]
    canvas.polygon(lid, shade(colour, 1.2), CLUTTER)


def _draw_surfaces(canvas: Canvas, rng: np.random.Generator, room: Room) -> None:
    tint = rng.uniform(0.9, 1.1, 3)
    top, bottom = (room.wall_level * tint * rng.uniform(0.7, 1.1) for _ in range(2))
    floor_colour = rng.uniform(60, 170) * rng.uniform(0.93, 1.07, 3)
    y = np.arange(canvas.height)[:, None, None]
    down = np.clip(y / room.horizon_y, 0, 1)
    near = np.clip((y - room.horizon_y) / (canvas.height - room.horizon_y), 0, 1)
    wall = top * (1 - down) + bottom * down
    floor = floor_colour * (0.75 + 0.4 * near * rng.uniform(0.5, 1.2))
    across = 1 + 0.25 * rng.uniform(-1, 1) * np.linspace(-1, 1, canvas.width)[None, :, None]
    pixels = np.where(y < room.horizon_y, wall, floor) * across
    canvas.picture.paste(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))


def _draw_ceiling(canvas: Canvas, rng: np.random.Generator, room: Room) -> None:
    width = canvas.width
    for _ in range(rng.integers(0, 5)):
        y, colour = rng.uniform(0, room.horizon_y * 0.6), np.full(3, room.wall_level * rng.uniform(0.6, 1.2))
        beam = [(0, y), (width, y + rng.uniform(-8, 8)), (width, y + rng.uniform(4, 14)), (0, y + 10)]
        canvas.polygon(beam, colour)
    for _ in range(rng.integers(0, 4)):
        x, y, length = rng.uniform(0, width), rng.uniform(0, room.horizon_y * 0.5), rng.uniform(30, 130)
        canvas.polygon([(x, y), (x + length, y), (x + length * 0.9, y + 6), (x + length * 0.1, y + 6)], _LAMP)


def _draw_lines(canvas: Canvas, rng: np.random.Generator, room: Room) -> None:
    """Paint the lines between parking spaces; they meet at a vanishing point."""
    width, far_y = canvas.width, room.horizon_y + 4
    vanishing_x = rng.uniform(0.2, 0.8) * width
    colour = _LINE_COLOURS[rng.integers(len(_LINE_COLOURS))]
    for step in np.arange(-6, 7) * rng.uniform(0.16, 0.3):
        if rng.random() < 0.85:
            far_x, near_x = vanishing_x + step * width * 0.35, vanishing_x + step * width * 1.8
            near = [(near_x + rng.uniform(3, 9), canvas.height), (near_x, canvas.height)]
            canvas.polygon([(far_x, far_y), (far_x + 1.5, far_y), *near], colour)


def _draw_pillar(canvas: Canvas, rng: np.random.Generator, room: Room) -> None:
    x, width, foot_y = rng.uniform(0, canvas.width), rng.uniform(14, 50), room.horizon_y + rng.uniform(5, 60)
    colour = np.full(3, room.wall_level * rng.uniform(0.6, 1.3))
    canvas.polygon(rectangle(x, 0, width, foot_y), colour)
    canvas.polygon(rectangle(x, 0, width * 0.25, foot_y), shade(colour, 0.8))
    if rng.random() < 0.5:
        band = _BAND_COLOURS[rng.integers(len(_BAND_COLOURS))]
        canvas.polygon(rectangle(x, foot_y * 0.6, width, foot_y * 0.4), band)


def _draw_sign(canvas: Canvas, rng: np.random.Generator, room: Room) -> None:
    """Paint a sign on the wall, as a distractor that resembles a plate."""
    x, y = rng.uniform(0, canvas.width), rng.uniform(0.1, 0.8) * room.horizon_y
    width, height = rng.uniform(15, 60), rng.uniform(10, 30)
    canvas.polygon(rectangle(x, y, width, height), _SIGN_COLOURS[rng.integers(len(_SIGN_COLOURS))])
    if rng.random() < 0.6:
        canvas.polygon(rectangle(x + width * 0.2, y + height * 0.4, width * 0.6, height * 0.2), _INK)


def _draw_cone(canvas: Canvas, x: float, ground_y: float, height: float) -> None:
    def ring(half_width: float, rise: float) -> list[tuple[float, float]]:
        y = ground_y - height * rise
        return [(x - height * half_width, y), (x + height * half_width, y)]

    canvas.polygon(ring(0.35, 0) + ring(0.08, 1)[::-1], _CONE, CLUTTER)
    canvas.polygon(ring(0.22, 0.4) + ring(0.15, 0.6)[::-1], _CONE_BAND)
