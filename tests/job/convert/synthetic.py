"""A set of two folders with equal base names, negatives, a rotated picture, and masks with parts and holes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from job.convert.conversion import ConvertRequest, convert
from job.convert.selection import ConversionCounts, SelectionOptions
from job.convert.source import every_key
from job.formats.instance_reader import AnnotatedImage
from job.formats.instance_table import InstanceRow, Rle
from job.formats.rle import decode_rle, encode_rle
from job.postprocess.instances import Instance
from job.postprocess.masks import crop_mask
from job.postprocess.painting import paint
from job.storage.local.store import LocalStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE_WH = (64, 48)
CLASSES = ("car", "license_plate", "person", "passenger")


def rectangle(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE_WH[::-1], np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def disc(x: int, y: int, radius: int) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: SIZE_WH[1], : SIZE_WH[0]]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


CAR = disc(20, 20, 14)
PLATE = rectangle(16, 26, 25, 30)
RING = disc(46, 24, 12) & ~disc(46, 24, 5)
TWO_PARTS = rectangle(2, 3, 12, 9) | rectangle(30, 30, 47, 44)
CORNER = disc(8, 5, 11) | rectangle(0, 0, 30, 4)
"""Unlike any of its own turns and reflections."""

Found = tuple[str, float, "NDArray[np.bool_]"]
CONTENT: dict[str, tuple[Found, ...]] = {
    "a/images/y": (("person", 0.61, TWO_PARTS),),
    "a/x": (("car", 0.912345, CAR), ("car", 0.5, RING), ("license_plate", 0.45, PLATE)),
    "b/empty": (),
    "b/x": (("person", 0.75, CORNER), ("passenger", 0.41, rectangle(40, 20, 41, 21))),
}
"""Class, score and mask of the stored raster, by stem, ascending."""
ROTATED = "b/x"


def rows_of(stem: str) -> tuple[InstanceRow, ...]:
    """Rows of the instance table of one image."""
    width, height = SIZE_WH
    common: dict[str, Any] = {
        "json": f"{stem}.json",
        "image": f"{stem}.jpg",
        "width": width,
        "height": height,
        "orientation": 6 if stem == ROTATED else 1,
        "camera": stem.partition("/")[0],
        "garage": "cen005",
        "timestamp_ms": 1_700_000_000_000,
    }
    instances = []
    for number, (name, score, pixels) in enumerate(CONTENT[stem]):
        mask = crop_mask(pixels, (0, 0), (height, width))
        assert mask is not None
        instances.append(Instance(name, score, number, mask))
    if not instances:
        return (InstanceRow(**common),)
    painted = paint(instances, (height, width))
    return tuple(
        InstanceRow(
            **common,
            class_name=instance.class_name,
            prompt=instance.class_name.replace("_", " "),
            query=instance.query,
            score=instance.score,
            value=value,
            box=instance.mask.box_xyxy,
            area=instance.mask.area,
            visible_area=int((painted.mask == value).sum()),
            rle=Rle((height, width), encode_rle(instance.mask, (height, width))),
        )
        for instance, value in zip(instances, painted.values, strict=True)
    )


def write_images(folder: Path) -> None:
    """The pictures; the rotated one has EXIF orientation 6."""
    for stem in CONTENT:
        path = folder / f"{stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if stem == ROTATED:
            exif[0x0112] = 6
        Image.new("RGB", SIZE_WH, (90, 90, 90)).save(path, exif=exif)


@dataclass
class SyntheticSource:
    """The set as a source of a conversion."""

    classes: tuple[str, ...] = CLASSES
    colours: dict[str, str] = field(default_factory=dict)
    rows: dict[str, tuple[InstanceRow, ...]] = field(default_factory=lambda: {stem: rows_of(stem) for stem in CONTENT})

    def images(self, is_wanted: Callable[[str], bool] = every_key) -> Iterator[AnnotatedImage]:
        for stem, rows in self.rows.items():
            if is_wanted(f"{stem}.json"):
                yield AnnotatedImage(f"{stem}.json", rows)


def convert_set(folder: Path, format_name: Any, **changes: Any) -> ConversionCounts:
    """Convert the set to `folder/dest`, with its images in `folder/out`."""
    write_images(folder / "out")
    output = LocalStore(folder / "out", "tester")
    fields: dict[str, Any] = {
        "output": output,
        "source": SyntheticSource(),
        "image_sources": (output,),
        "target": LocalStore(folder / "dest", "tester"),
        "format_name": format_name,
        "model_id": "SAM3-demo",
    }
    selection = SelectionOptions(**{name: changes.pop(name) for name in list(changes) if name in SELECTION})
    return convert(ConvertRequest(**(fields | {"selection": selection} | changes)))


SELECTION = set(SelectionOptions.__dataclass_fields__)


def masks_of(stem: str) -> list[NDArray[np.bool_]]:
    """Masks in the raster as stored."""
    rows = SyntheticSource().rows[stem]
    return [decode_rle(row.rle.counts, row.rle.size) for row in rows if row.rle is not None]


def upright_masks_of(stem: str) -> list[NDArray[np.bool_]]:
    """Masks as a viewer that applies EXIF shows them: orientation 6 is a quarter turn clockwise."""
    return [np.rot90(mask, -1) if stem == ROTATED else mask for mask in masks_of(stem)]
