"""Images to verify with: files of a folder, or drawn scenes."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from job.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUFFIXES = (".jpg", ".jpeg", ".png")
# Outside the range of seeds that the demo model was trained with.
_FIRST_SEED = 7_000_000


DEMO_IMAGES, OFFICIAL_IMAGES = 60, 6
"""Images to compare on by default."""


def pictures_of(folder: Path | None, number: int | None, *, is_demo: bool) -> Iterator[Image.Image]:
    """Yield upright RGB images.

    Args:
        folder: Folder of image files, read in order of their names, or None to draw scenes.
        number: Largest number of images, or None for the default of the model.
        is_demo: Whether they are for the demo model.

    Raises:
        UsageError: The folder has no image file.
    """
    number = number or (DEMO_IMAGES if is_demo else OFFICIAL_IMAGES)
    if folder is None:
        return drawn_pictures(number)
    return files_of(folder, number, "--images")


def files_of(folder: Path, number: int, flag: str) -> Iterator[Image.Image]:
    """Yield the first image files of a folder by name, upright RGB.

    Args:
        folder: Searched with its subfolders.
        number: Largest number of images.
        flag: That gave the folder, for errors.

    Raises:
        UsageError: The folder has no image file.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)[:number]
    if not paths:
        raise UsageError(f"{flag} {folder} has no {', '.join(_SUFFIXES)}")
    return (_read(path, flag) for path in paths)


def drawn_pictures(number: int) -> Iterator[Image.Image]:
    """Draw scenes of cars, plates and persons, the same ones every time."""
    from export.demo_model.scenes.scenes import draw_scene

    return (draw_scene(seed).image for seed, _ in zip(count(_FIRST_SEED), range(number), strict=False))


def _read(path: Path, flag: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except OSError as exc:
        raise UsageError(f"{flag}: {path} cannot be read: {exc}") from exc
