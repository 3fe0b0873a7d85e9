"""Draws garage scenes with exact masks from a seed.

Cars are in spaces side by side; people are between them and inside them. Nearer objects are painted later and occlude
those behind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from export.demo_model.scenes.cars import CAR, PLATE, draw_front, draw_side
from export.demo_model.scenes.drawing import Canvas, PaintedObject
from export.demo_model.scenes.people import PERSON, draw_person
from export.demo_model.scenes.rooms import Room, draw_clutter, draw_room

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CLASS_NAMES = (CAR, PLATE, PERSON)
# Seeds of the evaluation and of `make demo`; training uses seeds from 0.
HELD_OUT_SEED, PLAY_SEED = 5_000_000, 9_000_000
_SIZES_WH = ((640, 360), (640, 480), (768, 432), (720, 540), (854, 480))
_CAR_CHANCES = (0.12, 0.22, 0.26, 0.2, 0.12, 0.08)
_PERSON_CHANCES = (0.4, 0.32, 0.18, 0.1)
_CLUTTER_COUNTS = 3
_MIN_SPACES = 3
# An object is labelled if its visible area is at least these fractions of the picture and of the object.
_MIN_PICTURE_SHARE = {CAR: 0.003, PLATE: 0.0005, PERSON: 0.0009}
_MIN_VISIBLE_SHARE = {CAR: 0.2, PLATE: 0.5, PERSON: 0.3}
# Garages and cameras of written scenes, in rotation.
_CAMERAS = (("cen005", "entry1"), ("cen005", "exit1"), ("cen007", "entry1"))
_FIRST_TIMESTAMP_MS = 1_700_000_000_000
_SECONDS_APART = 60


@dataclass(frozen=True)
class SceneObject:
    """The visible part of one object.

    Attributes:
        class_name: One of `CLASS_NAMES`.
        mask: bool (H, W).
        box_xyxy: Its tight box, in pixels, right and lower edge exclusive.
        is_passenger: Whether it is a person inside a car.
    """

    class_name: str
    mask: NDArray[np.bool_]
    box_xyxy: tuple[int, int, int, int]
    is_passenger: bool


@dataclass(frozen=True)
class Scene:
    """A picture and its objects.

    Attributes:
        image: RGB.
        objects: In the order in which their painting was completed.
    """

    image: Image.Image
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, order=True)
class _Item:
    """Something to paint; a larger `ground_y` is nearer and painted later."""

    ground_y: float
    kind: str
    x: float = 0.0
    nearness: float = 0.0


def draw_scene(seed: int, size_wh: tuple[int, int] | None = None) -> Scene:
    """Draw a scene.

    Args:
        seed: The same seed and size give the same scene.
        size_wh: Pixels; if None, the seed selects a usual size.
    """
    rng = np.random.default_rng(seed)
    usual = _SIZES_WH[rng.integers(len(_SIZES_WH))]
    canvas = Canvas(size_wh or usual)
    room = draw_room(canvas, rng)
    for item in sorted(_items(rng, room, canvas)):
        _draw_item(canvas, rng, room, item)
    seen = (_seen(canvas, painted) for painted in canvas.objects)
    return Scene(_exposed(canvas.picture, rng), tuple(found for found in seen if found))


def write_scenes(folder: Path, seed: int, count: int, sizes_wh: Sequence[tuple[int, int]] = _SIZES_WH) -> list[Path]:
    """Write scenes in the input format: a JPG and a JSON of the same stem each.

    The same arguments give the same bytes.

    Args:
        folder: Folder of the folders of garages and cameras; created if it is missing.
        seed: Seed of the first scene; the others have the next seeds.
        count: Number of scenes.
        sizes_wh: Sizes in pixels, in rotation.

    Returns:
        The paths of the pictures, in order.
    """
    paths = []
    for index in range(count):
        size_wh, camera = sizes_wh[index % len(sizes_wh)], _CAMERAS[index % len(_CAMERAS)]
        path = folder.joinpath(*camera) / f"scene_{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_scene(seed + index, size_wh).image.save(path, quality=92)
        content = json.dumps(_gva(index, size_wh, camera), indent=2)
        path.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def _gva(index: int, size_wh: tuple[int, int], camera: tuple[str, str]) -> dict[str, object]:
    """The JSON of an image without annotations; `camera` is the names of garage and camera."""
    taken_ms = _FIRST_TIMESTAMP_MS + index * _SECONDS_APART * 1000
    return {
        "image": {"dimensions": {"width": size_wh[0], "height": size_wh[1]}, "timestamp_ms": taken_ms},
        "source": {"source_type": "GVA", "camera": camera[1], "garage": camera[0]},
    }


def _items(rng: np.random.Generator, room: Room, canvas: Canvas) -> list[_Item]:
    depth = canvas.height - room.horizon_y
    cars, people = rng.choice(6, p=_CAR_CHANCES), rng.choice(4, p=_PERSON_CHANCES)
    spaces = max(int(cars), _MIN_SPACES)
    items = []
    for space in rng.permutation(spaces)[:cars]:
        near, x = rng.uniform(0.12, 1), canvas.width * (space + rng.uniform(0.2, 0.8)) / spaces
        items.append(_Item(room.horizon_y + depth * (0.12 + 0.85 * near), CAR, x, near))
    for _ in range(people):
        near, x = rng.uniform(0.1, 1), canvas.width * rng.uniform(0.04, 0.96)
        items.append(_Item(room.horizon_y + depth * (0.15 + 0.83 * near), PERSON, x, near))
    grounds = room.horizon_y + depth * rng.uniform(0.1, 0.9, rng.integers(0, _CLUTTER_COUNTS))
    return items + [_Item(float(ground_y), "clutter") for ground_y in grounds]


def _draw_item(canvas: Canvas, rng: np.random.Generator, room: Room, item: _Item) -> None:
    ground = (item.x, item.ground_y)
    if item.kind == CAR:
        width = canvas.width * (0.17 + 0.2 * item.nearness) * rng.uniform(0.9, 1.15)
        if rng.random() < 0.55:
            draw_front(canvas, rng, ground, min(width, canvas.height * 0.75))
        else:
            draw_side(canvas, rng, ground, width * 1.5)
    elif item.kind == PERSON:
        draw_person(canvas, rng, ground, canvas.height * (0.25 + 0.4 * item.nearness) * rng.uniform(0.85, 1.1))
    else:
        draw_clutter(canvas, rng, room, item.ground_y)


def _seen(canvas: Canvas, painted: PaintedObject) -> SceneObject | None:
    """The visible part of an object in the complete scene, or None if it is too small to be labelled."""
    mask = canvas.layer(is_inner=painted.is_inner) == painted.number
    area = int(np.count_nonzero(mask))
    least = _MIN_PICTURE_SHARE[painted.class_name] * mask.size
    if area < max(least, _MIN_VISIBLE_SHARE[painted.class_name] * painted.full_area_px):
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box_xyxy = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return SceneObject(painted.class_name, mask, box_xyxy, painted.is_passenger)


def _exposed(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Simulate a camera: blur, uneven light, colour cast and noise."""
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    width, height = picture.size
    x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    light = 1 + rng.uniform(-0.2, 0.2) * x + rng.uniform(-0.15, 0.15) * y - rng.uniform(0, 0.3) * (x**2 + y**2) / 2
    exposure = (rng.uniform(0.75, 1.15) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    pixels = np.asarray(picture, np.float32) * light.astype(np.float32)[..., None] * exposure
    grain = rng.normal(0, rng.uniform(1, 9), (height // 2 + 1, width // 2 + 1, 1)).astype(np.float32)
    pixels += np.repeat(np.repeat(grain, 2, 0), 2, 1)[:height, :width]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
