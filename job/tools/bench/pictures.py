"""Synthetic inputs: JPEG pictures with a JSON each, and the fixed instances that every picture has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from job.model.session import Grounding

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_QUALITY = 90
_SEED = 20
_ELLIPSES = (
    (0.22, 0.62, 0.17, 0.16),
    (0.55, 0.60, 0.13, 0.13),
    (0.84, 0.66, 0.12, 0.17),
    (0.22, 0.72, 0.035, 0.012),
    (0.56, 0.68, 0.028, 0.010),
    (0.40, 0.45, 0.030, 0.130),
    (0.70, 0.40, 0.028, 0.120),
)
"""Centre x, y and radii x, y of each instance, in parts of the image: three cars, two plates, two persons."""
_CLASSES = (0, 0, 0, 1, 1, 2, 2)
INSTANCES = len(_ELLIPSES)
PICTURE_WH = (1920, 1080)
"""Width and height of the pictures where nothing else is asked for, in pixels."""
_SCORE, _STEP = 0.95, 0.05
_WAVES = 9


def write_pictures(folder: Path, count: int, size_wh: tuple[int, int]) -> None:
    """Write `00000.jpg`, `00000.json`, …: the same picture under many names.

    Equal pictures have equal scores, so that one threshold selects the same number of masks in each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "picture"
    draw_picture(size_wh).save(picture, format="JPEG", quality=_QUALITY)
    data = picture.read_bytes()
    picture.unlink()
    document = json.dumps({"image": {"dimensions": {"width": size_wh[0], "height": size_wh[1]}}})
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(data)
        (folder / f"{number:05d}.json").write_text(document, encoding="utf-8")


def draw_picture(size_wh: tuple[int, int]) -> Image.Image:
    """Draw a picture with edges and noise, so that its JPEG has the size of a photograph's."""
    width, height = size_wh
    noise = np.random.default_rng(_SEED)
    picture = Image.fromarray(noise.integers(60, 200, (12, 16, 3), np.uint8)).resize(size_wh, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for x, y, radius_x, radius_y in _ELLIPSES:
        box = ((x - radius_x) * width, (y - radius_y) * height, (x + radius_x) * width, (y + radius_y) * height)
        draw.ellipse(box, fill=tuple(noise.integers(0, 255, 3).tolist()), outline=(255, 255, 255))
    grain = noise.normal(0, 5, (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def fixed_grounding(scores_shape: tuple[int, int], mask_hw: tuple[int, int]) -> Grounding:
    """Answers with the fixed instances.

    Args:
        scores_shape: Prompts, at least one, and queries; there are always `INSTANCES` columns.
        mask_hw: Height and width of the model's mask logits.
    """
    prompts, queries = scores_shape
    rows = sorted((min(prompt, prompts - 1), query) for query, prompt in enumerate(_CLASSES))
    scores = np.zeros((prompts, max(queries, INSTANCES)), np.float32)
    for prompt, query in rows:
        scores[prompt, query] = _SCORE - _STEP * query
    logits = np.stack([_ellipse(_ELLIPSES[query], mask_hw) for _, query in rows])
    return Grounding(scores=scores, selected=np.array(rows, np.int64), mask_logits=logits)


def _ellipse(shape: tuple[float, float, float, float], mask_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Logits of an ellipse with a wavy outline."""
    centre_x, centre_y, radius_x, radius_y = shape
    height, width = mask_hw
    y = ((np.arange(height) + 0.5) / height - centre_y)[:, None] / radius_y
    x = ((np.arange(width) + 0.5) / width - centre_x)[None, :] / radius_x
    outline = 1.0 + 0.1 * np.sin(_WAVES * np.arctan2(y, x))
    logits: NDArray[np.float32] = (6.0 * (outline - np.hypot(x, y))).astype(np.float32)
    return logits
