"""Draws cars from the front, rear, side or three quarters, with plates and passengers."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.demo_model.scenes.drawing import Canvas, Point, rectangle, shade
from export.demo_model.scenes.people import draw_passenger

CAR, PLATE = "car", "license plate"
_SHADOW, _TYRE, _RIM, _GRILLE, _INK = (28, 28, 30), (18, 18, 20), (150, 150, 155), (25, 25, 28), (30, 30, 45)
_PLATE_COLOURS = np.array(((245, 245, 245), (240, 210, 70), (225, 232, 245)), np.float64)
_COUNTRY_BAND, _REAR_LIGHT = (30, 60, 170), (205, 35, 30)
_HEADLIGHTS = ((250, 250, 230), (225, 225, 245))
_GLASS = np.array((70, 90, 110), np.float64)


@dataclass(frozen=True)
class _Frame:
    """Coordinates of a car: u from its middle in widths (mirrored if it faces left), v upwards in heights."""

    x: float
    ground_y: float
    width: float
    height: float
    facing: int = 1

    def at(self, u: float, v: float) -> Point:
        """Convert a point to pixels."""
        return self.x + self.facing * u * self.width, self.ground_y - v * self.height

    def path(self, *points: Point) -> list[Point]:
        """Convert points to pixels."""
        return [self.at(u, v) for u, v in points]


@dataclass(frozen=True)
class _Paint:
    """Colours of one car."""

    body: NDArray[np.float64]
    glass: NDArray[np.float64]


def draw_front(canvas: Canvas, rng: np.random.Generator, ground: Point, width: float) -> None:
    """Paint a car from the front or the rear; passengers are visible through the windscreen only.

    Args:
        canvas: Where to paint.
        rng: Random number generator.
        ground: Point (x, y) under its middle, in pixels.
        width: Pixels from side to side.
    """
    frame = _Frame(*ground, width=width, height=width * rng.uniform(0.68, 0.92))
    number, paint, is_rear = canvas.new_number(), _paint(rng), bool(rng.random() < 0.4)
    canvas.ellipse(frame.at(0, 0.005), (width * 0.58, frame.height * 0.065), _SHADOW)
    for side in (-1, 1):
        canvas.polygon(
            frame.path((side * 0.47, 0.3), (side * 0.29, 0.3), (side * 0.29, 0), (side * 0.47, 0)), _TYRE, number
        )
        mirror = frame.path((side * 0.48, 0.62), (side * 0.58, 0.64), (side * 0.58, 0.56), (side * 0.48, 0.56))
        canvas.polygon(mirror, shade(paint.body, 0.8), number)
    window = _draw_front_body(canvas, rng, (frame, paint), number)
    _draw_front_lights(canvas, rng, frame, is_rear=is_rear)
    if rng.random() < 0.9:
        _draw_front_plate(canvas, rng, frame)
    if not is_rear:
        _seat_front_passengers(canvas, rng, frame, window)
    canvas.complete(number, CAR)


def draw_side(canvas: Canvas, rng: np.random.Generator, ground: Point, width: float) -> None:
    """Paint a car from the side, or from three quarters with its front and a plate.

    Args:
        canvas: Where to paint.
        rng: Random number generator.
        ground: Point (x, y) under its middle, in pixels.
        width: Pixels from end to end.
    """
    frame = _Frame(*ground, width=width, height=width * rng.uniform(0.36, 0.46), facing=int(rng.choice([-1, 1])))
    number, paint, has_face = canvas.new_number(), _paint(rng), bool(rng.random() < 0.6)
    profile = _Profile(frame, rng.uniform(0.22, 0.3) if has_face else 0.5, rng)
    canvas.ellipse(frame.at(0, 0.005), (width * 0.54, frame.height * 0.075), _SHADOW)
    _draw_flank(canvas, profile, paint, number)
    if has_face:
        _draw_face(canvas, rng, (profile, paint), number)
    _draw_wheels(canvas, profile, frame.height * rng.uniform(0.19, 0.23), number)
    if has_face and rng.random() < 0.9:
        _draw_plate(canvas, rng, profile.plate(rng.uniform(0.5, 0.6)))
    for window, u, chance in (
        (profile.front_window, profile.front_seat, 0.4),
        (profile.rear_window, profile.rear_seat, 0.15),
    ):
        if rng.random() < chance:
            draw_passenger(canvas, rng, window, profile.at(u, 0.63), frame.height * rng.uniform(0.1, 0.125))
    canvas.complete(number, CAR)


def _paint(rng: np.random.Generator) -> _Paint:
    hue, saturation, value = rng.random(), rng.choice([0.05, 0.5, 0.85]), rng.uniform(0.15, 0.98)
    return _Paint(np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255, _GLASS * rng.uniform(0.4, 1.6))


def _draw_front_body(canvas: Canvas, rng: np.random.Generator, car: tuple[_Frame, _Paint], number: int) -> list[Point]:
    """Paint cabin, body, bonnet, bumper and glass; returns the corners of the window."""
    frame, paint = car
    roof, belt = rng.uniform(0.28, 0.38), rng.uniform(0.42, 0.47)
    cabin = frame.path((-belt, 0.52), (-roof, 0.97), (-roof * 0.7, 1), (roof * 0.7, 1), (roof, 0.97), (belt, 0.52))
    body = frame.path((-0.5, 0.12), (-0.5, 0.46), (-0.45, 0.55), (0.45, 0.55), (0.5, 0.46), (0.5, 0.12))
    window = frame.path((-belt * 0.9, 0.55), (-roof * 0.88, 0.92), (roof * 0.88, 0.92), (belt * 0.9, 0.55))
    canvas.polygon(cabin, shade(paint.body, 0.92), number)
    canvas.polygon(body, paint.body, number)
    canvas.polygon(frame.path((-0.46, 0.5), (-0.42, 0.55), (0.42, 0.55), (0.46, 0.5)), shade(paint.body, 1.2))
    canvas.polygon(frame.path((-0.5, 0.12), (-0.5, 0.2), (0.5, 0.2), (0.5, 0.12)), shade(paint.body, 0.55))
    canvas.polygon(window, paint.glass)
    shift = rng.uniform(-0.1, 0.1)
    glint = frame.path((-0.25 + shift, 0.56), (-0.12 + shift, 0.91), (-0.06 + shift, 0.91), (-0.17 + shift, 0.56))
    canvas.polygon(glint, shade(paint.glass, 1.35))
    return window


def _draw_front_lights(canvas: Canvas, rng: np.random.Generator, frame: _Frame, *, is_rear: bool) -> None:
    colour = _REAR_LIGHT if is_rear else _HEADLIGHTS[rng.integers(len(_HEADLIGHTS))]
    for side in (-1, 1):
        lamp = frame.path((side * 0.48, 0.46), (side * 0.3, 0.43), (side * 0.32, 0.36), (side * 0.48, 0.36))
        canvas.polygon(lamp, colour)
    if not is_rear:
        canvas.polygon(frame.path((-0.24, 0.44), (0.24, 0.44), (0.2, 0.36), (-0.2, 0.36)), _GRILLE)


def _draw_front_plate(canvas: Canvas, rng: np.random.Generator, frame: _Frame) -> None:
    half_width = rng.uniform(0.26, 0.36) / 2
    half_height = half_width * rng.uniform(0.24, 0.34) * frame.width / frame.height
    v, u, tilt = rng.uniform(0.2, 0.3), rng.uniform(-0.03, 0.03), rng.uniform(-0.01, 0.01)
    left, right = u - half_width, u + half_width
    upper = [(left, v + half_height + tilt), (right, v + half_height - tilt)]
    lower = [(right, v - half_height - tilt), (left, v - half_height + tilt)]
    _draw_plate(canvas, rng, frame.path(*upper, *lower))


def _seat_front_passengers(canvas: Canvas, rng: np.random.Generator, frame: _Frame, window: list[Point]) -> None:
    head = frame.height * rng.uniform(0.095, 0.12)
    for side, chance, growth in ((1, 0.45, 1.0), (-1, 0.25, rng.uniform(0.9, 1.05))):
        if rng.random() < chance:
            draw_passenger(canvas, rng, window, frame.at(side * rng.uniform(0.14, 0.24), 0.55), head * growth)


class _Profile:
    """The outline of a car from the side.

    From three quarters the side covers less of the width; its u coordinates are compressed.
    """

    def __init__(self, frame: _Frame, face_u: float, rng: np.random.Generator) -> None:
        self.frame, self.face_u = frame, face_u
        self.roof = rng.uniform(0.94, 1.0)
        self.rear, self.front = rng.uniform(-0.33, -0.2), rng.uniform(0.08, 0.16)

    @property
    def middle(self) -> float:
        """Coordinate u of the edge between the doors."""
        return (self.rear + self.front) / 2

    @property
    def front_seat(self) -> float:
        """Coordinate u of the front seat."""
        return (self.middle + self.front) / 2 + 0.02

    @property
    def rear_seat(self) -> float:
        """Coordinate u of the rear seat."""
        return (self.rear + self.middle) / 2

    @property
    def rear_window(self) -> list[Point]:
        """Corners of the rear window."""
        m, top = self.middle - 0.01, self.roof - 0.06
        return self.path((self.rear - 0.05, 0.63), (self.rear + 0.02, top), (m, top), (m, 0.63))

    @property
    def front_window(self) -> list[Point]:
        """Corners of the front window."""
        m, top = self.middle + 0.015, self.roof - 0.06
        return self.path((m, 0.63), (m, top), (self.front - 0.01, top), (self.front + 0.13, 0.63))

    @property
    def face(self) -> list[Point]:
        """Corners of the car's front: inner bottom, inner top, outer top, outer bottom."""
        u = self.face_u
        return self.frame.path((u, 0.15), (u, 0.56), (0.5, 0.5), (0.5, 0.2))

    def squeezed(self, u: float) -> float:
        """Convert u of the side to u of the whole car."""
        return -0.5 + (u + 0.5) * (self.face_u + 0.5)

    def at(self, u: float, v: float) -> Point:
        """Convert a point of the side to pixels."""
        return self.frame.at(self.squeezed(u), v)

    def path(self, *points: Point) -> list[Point]:
        """Convert points of the side to pixels."""
        return [self.at(u, v) for u, v in points]

    def on_face(self, *points: Point) -> list[Point]:
        """Convert points of the front (u, v in 0..1, right and down from its inner upper corner) to pixels."""
        bottom_left, top_left, top_right, bottom_right = self.face
        return [_within((top_left, top_right, bottom_right, bottom_left), u, v) for u, v in points]

    def plate(self, middle: float) -> list[Point]:
        """Corners of the plate, clockwise from the upper left one in the picture."""
        top, bottom = middle - 0.17, middle + 0.17
        left, right = (0.22, 0.78) if self.frame.facing > 0 else (0.78, 0.22)
        return self.on_face((left, top), (right, top), (right, bottom), (left, bottom))


def _draw_flank(canvas: Canvas, profile: _Profile, paint: _Paint, number: int) -> None:
    rear, front, middle = profile.rear, profile.front, profile.middle
    back = [(-0.5, 0.16), (-0.5, 0.5), (-0.44, 0.58), (rear - 0.09, 0.61), (rear, profile.roof)]
    nose = [(front, profile.roof), (front + 0.17, 0.6), (0.44, 0.53), (0.5, 0.44), (0.5, 0.16)]
    canvas.polygon(profile.path(*back, *nose), paint.body, number)
    canvas.polygon(profile.path((-0.5, 0.16), (-0.5, 0.24), (0.5, 0.24), (0.5, 0.16)), shade(paint.body, 0.6))
    canvas.polygon(profile.rear_window, paint.glass)
    canvas.polygon(profile.front_window, paint.glass)
    door = profile.path((middle, 0.6), (middle, 0.24))
    canvas.line(door[0], door[1], shade(paint.body, 0.7), int(profile.frame.width * 0.004))


def _draw_face(canvas: Canvas, rng: np.random.Generator, car: tuple[_Profile, _Paint], number: int) -> None:
    profile, paint = car
    at, squeezed, front = profile.frame.path, profile.squeezed, profile.front
    bonnet_u, roof_u = squeezed(front + 0.17), squeezed(front)
    bonnet = at((profile.face_u, 0.56), (bonnet_u, 0.62), (bonnet_u + 0.14, 0.6), (0.5, 0.5))
    windscreen = at(
        (roof_u, profile.roof), (bonnet_u, 0.61), (bonnet_u + 0.13, 0.595), (roof_u + 0.07, profile.roof - 0.02)
    )
    canvas.polygon(bonnet, shade(paint.body, 1.15), number)
    canvas.polygon(windscreen, shade(paint.glass, 0.9), number)
    canvas.polygon(profile.face, shade(paint.body, 0.85), number)
    colour = (_HEADLIGHTS[0], _REAR_LIGHT)[rng.integers(2)]
    for left, right in ((0.03, 0.2), (0.8, 0.97)):
        canvas.polygon(profile.on_face((left, 0.1), (right, 0.1), (right, 0.3), (left, 0.3)), colour)


def _draw_wheels(canvas: Canvas, profile: _Profile, radius: float, number: int) -> None:
    for u in (-0.3, 0.3):
        x, ground_y = profile.at(u, 0)
        canvas.ellipse((x, ground_y - radius), (radius, radius), _TYRE, number)
        canvas.ellipse((x, ground_y - radius), (radius * 0.55, radius * 0.55), _RIM)


def _draw_plate(canvas: Canvas, rng: np.random.Generator, corners: list[Point]) -> None:
    """Paint a plate with characters on it; corners clockwise from the upper left one."""
    number = canvas.new_number()
    colour = _PLATE_COLOURS[rng.choice(3, p=[0.6, 0.25, 0.15])] * rng.uniform(0.85, 1)
    canvas.inner_polygon(corners, colour, number)
    signs = int(rng.integers(5, 9))
    for index in range(signs):
        left, right = (0.1 + 0.8 * (index + end) / signs for end in (0.0, rng.uniform(0.5, 0.75)))
        canvas.polygon(_patch(corners, left, right, (0.25, 0.75)), _INK)
    if rng.random() < 0.4:
        canvas.polygon(_patch(corners, 0.01, 0.08, (0.05, 0.95)), _COUNTRY_BAND)
    canvas.complete(number, PLATE, is_inner=True)


def _patch(corners: list[Point], left: float, right: float, top_bottom: Point) -> list[Point]:
    """Corners of a part of a quadrilateral, in fractions of its sides."""
    return [
        _within(corners, u, v) for u, v in rectangle(left, top_bottom[0], right - left, top_bottom[1] - top_bottom[0])
    ]


def _within(corners: list[Point] | tuple[Point, Point, Point, Point], u: float, v: float) -> Point:
    """A point of a quadrilateral (corners clockwise from the upper left one), in fractions of its sides."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = corners
    upper, lower = (ax + (bx - ax) * u, ay + (by - ay) * u), (dx + (cx - dx) * u, dy + (cy - dy) * u)
    return upper[0] + (lower[0] - upper[0]) * v, upper[1] + (lower[1] - upper[1]) * v
