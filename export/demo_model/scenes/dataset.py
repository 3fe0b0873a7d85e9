"""A cache of training scenes: drawing a scene takes longer than a training step of a small network.

A cache is a folder. Each shard has a file of pictures (memory-mapped, so that processes share them) and a file of
objects, with masks packed to bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.demo_model.scenes.people import PERSON
from export.demo_model.scenes.scenes import CLASS_NAMES, Scene, draw_scene

_SIZES_WH = ((512, 288), (512, 384), (640, 360), (640, 480))
_ZOOM_CHANCE, _ZOOM_SIDES = 0.25, (0.4, 0.8)
# A crop keeps an object if it covers at least these fractions of the crop and of the object.
_MIN_CROP_SHARE, _MIN_OBJECT_SHARE = 0.001, 0.4
_COMPLETE = "complete.txt"


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Content of a cache.

    Attributes:
        scenes: Number of scenes.
        seed: Seed of the first scene; the others have the next seeds.
        image_side_px: Side of the square that pictures are resized to.
        mask_side_px: Side of the square that masks are resized to.
        shards: Number of files, and of processes that draw.
    """

    scenes: int
    seed: int = 0
    image_side_px: int = 336
    mask_side_px: int = 192
    shards: int = 2


@dataclass(frozen=True)
class Sample:
    """One training picture.

    Attributes:
        image: uint8 (S, S, 3), RGB.
        masks: uint8 (N, M, M), 0 or 1.
        boxes_cxcywh: float32 (N, 4), centre and size in fractions of the picture.
        classes: int64 (N,), index in `CLASS_NAMES`.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    boxes_cxcywh: NDArray[np.float32]
    classes: NDArray[np.int64]


class Cache:
    """The samples of a folder, by index."""

    def __init__(self, folder: Path) -> None:
        self._pictures, self._objects = [], []
        for path in sorted(folder.glob("pictures_*.npy")):
            self._pictures.append(np.load(path, mmap_mode="r"))
            with np.load(folder / f"objects_{path.stem.removeprefix('pictures_')}.npz") as arrays:
                self._objects.append({name: arrays[name] for name in arrays.files})
        self._positions = [
            (shard, index) for shard, of_shard in enumerate(self._pictures) for index in range(len(of_shard))
        ]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Sample:
        shard, position = self._positions[index]
        objects = self._objects[shard]
        first, end = objects["offsets"][position : position + 2]
        side = int(objects["mask_side_px"])
        bits = np.unpackbits(objects["masks"][first:end], axis=1)[:, : side * side]
        return Sample(
            image=np.array(self._pictures[shard][position]),
            masks=bits.reshape(-1, side, side),
            boxes_cxcywh=objects["boxes_cxcywh"][first:end],
            classes=objects["classes"][first:end],
        )


def render_cache(folder: Path, options: CacheOptions) -> Cache:
    """Draw the scenes of a cache unless the folder holds them already, and open it."""
    note = folder / _COMPLETE
    if not note.is_file() or note.read_text(encoding="utf-8") != repr(options):
        note.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(options.shards, mp_context=get_context("spawn")) as pool:
            list(pool.map(_render_shard, [folder] * options.shards, [options] * options.shards, range(options.shards)))
        note.write_text(repr(options), encoding="utf-8")
    return Cache(folder)


def sample_of(scene: Scene, image_side_px: int, mask_side_px: int) -> Sample:
    """Resize a scene to the network's square."""
    width, height = scene.image.size
    scale = np.array((width, height) * 2, np.float32)
    corners = np.array([found.box_xyxy for found in scene.objects], np.float32).reshape(-1, 4) / scale
    sizes = corners[:, 2:] - corners[:, :2]
    masks = [_resized_mask(found.mask, mask_side_px) for found in scene.objects]
    return Sample(
        image=np.array(scene.image.resize((image_side_px, image_side_px), Image.Resampling.BILINEAR)),
        masks=np.array(masks, np.uint8).reshape(-1, mask_side_px, mask_side_px),
        boxes_cxcywh=np.concatenate([corners[:, :2] + sizes / 2, sizes], axis=1),
        classes=np.array([CLASS_NAMES.index(found.class_name) for found in scene.objects], np.int64),
    )


def zoomed(scene: Scene, rng: np.random.Generator) -> Scene:
    """Crop a scene around a random person, else around a random object; a scene without objects is unchanged."""
    people = [found for found in scene.objects if found.class_name == PERSON]
    candidates = people or list(scene.objects)
    if not candidates:
        return scene
    (x0, y0, x1, y1), (width, height) = candidates[rng.integers(len(candidates))].box_xyxy, scene.image.size
    part_w, part_h = (int(side * rng.uniform(*_ZOOM_SIDES)) for side in (width, height))
    left = int(np.clip((x0 + x1) / 2 - part_w * rng.uniform(0.25, 0.75), 0, width - part_w))
    top = int(np.clip((y0 + y1) / 2 - part_h * rng.uniform(0.25, 0.75), 0, height - part_h))
    return _cropped(scene, (left, top, left + part_w, top + part_h))


def _cropped(scene: Scene, part_xyxy: tuple[int, int, int, int]) -> Scene:
    x0, y0, x1, y1 = part_xyxy
    objects = []
    for found in scene.objects:
        mask = found.mask[y0:y1, x0:x1]
        if mask.sum() < max(_MIN_CROP_SHARE * mask.size, _MIN_OBJECT_SHARE * found.mask.sum()):
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box_xyxy = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        objects.append(type(found)(found.class_name, mask, box_xyxy, found.is_passenger))
    return Scene(scene.image.crop(part_xyxy), tuple(objects))


def _render_shard(folder: Path, options: CacheOptions, shard: int) -> None:
    seeds = range(options.seed + shard, options.seed + options.scenes, options.shards)
    side = options.image_side_px
    pictures = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        folder / f"pictures_{shard}.npy", mode="w+", dtype=np.uint8, shape=(len(seeds), side, side, 3)
    )
    samples = []
    for index, sample in enumerate(_samples(seeds, options)):
        pictures[index] = sample.image
        samples.append((np.packbits(sample.masks.reshape(len(sample.masks), options.mask_side_px**2), axis=1), sample))
    pictures.flush()
    np.savez(
        folder / f"objects_{shard}.npz",
        masks=np.concatenate([packed for packed, _ in samples]),
        boxes_cxcywh=np.concatenate([sample.boxes_cxcywh for _, sample in samples]),
        classes=np.concatenate([sample.classes for _, sample in samples]),
        offsets=np.cumsum([0] + [len(sample.classes) for _, sample in samples]),
        mask_side_px=options.mask_side_px,
    )


def _samples(seeds: range, options: CacheOptions) -> Iterator[Sample]:
    for seed in seeds:
        # A separate random stream: the framing of a scene does not change its content.
        rng = np.random.default_rng((seed, 1))
        scene = draw_scene(seed, _SIZES_WH[rng.integers(len(_SIZES_WH))])
        if rng.random() < _ZOOM_CHANCE:
            scene = zoomed(scene, rng)
        yield sample_of(scene, options.image_side_px, options.mask_side_px)


def _resized_mask(mask: NDArray[np.bool_], side_px: int) -> NDArray[np.bool_]:
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((side_px, side_px), Image.Resampling.BOX)
    return np.asarray(grey) >= 128
