"""Batches of a training step: pictures, and prompts for each of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from export.demo_model.scenes.dataset import Cache, Sample
from export.demo_model.scenes.prompts import UNKNOWN_WORDS, WORDS
from export.demo_model.scenes.scenes import CLASS_NAMES
from export.demo_model.training.losses import Targets

# People are the smallest and hardest class, so their prompts are the most frequent.
_CLASS_WEIGHTS = (0.3, 0.25, 0.45)
_UNKNOWN_CHANCE, _RECOLOUR_CHANCE = 0.1, 0.7


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Shape of a batch.

    Attributes:
        pictures: Number of pictures.
        prompts: Prompts for each picture; if it is the number of classes, each class is prompted once, in order.
        image_side_px: Side of the network's input.
        mask_side_px: Side of the target masks.
    """

    pictures: int
    prompts: int
    image_side_px: int
    mask_side_px: int

    @property
    def asks_all(self) -> bool:
        """Whether each class of each picture is prompted."""
        return self.prompts == len(CLASS_NAMES)


@dataclass(frozen=True)
class Batch:
    """Pictures, prompts and targets.

    Attributes:
        images: float32 (B, 3, S, S), in -1..1.
        words: The different prompts.
        picture_of_pair: int64 (P,), in 0..B-1.
        word_of_pair: int64 (P,), index in `words`.
        targets: Targets of each of the P pairs of picture and prompt.
        mask_side_px: Side of the masks.
        targets_are_dense: Whether each class of each picture is prompted, in order.
    """

    images: Tensor
    words: list[str]
    picture_of_pair: Tensor
    word_of_pair: Tensor
    targets: Targets
    mask_side_px: int
    targets_are_dense: bool


def draw_batch(cache: Cache, options: BatchOptions, rng: random.Random) -> Batch:
    """Draw random pictures, augment them, and prompt random classes."""
    images, words = [], dict[str, int]()
    pairs: list[tuple[int, int]] = []
    boxes, masks = [], []
    for picture in range(options.pictures):
        sample = cache[rng.randrange(len(cache))]
        image, all_masks, all_boxes = _changed(sample, options, rng)
        images.append(image)
        for class_index in _classes(options, rng):
            known = options.asks_all or rng.random() >= _UNKNOWN_CHANCE
            word = rng.choice(WORDS[CLASS_NAMES[class_index]] if known else UNKNOWN_WORDS)
            wanted = torch.from_numpy((sample.classes == class_index) & known)
            pairs.append((picture, words.setdefault(word, len(words))))
            boxes.append(all_boxes[wanted])
            masks.append(all_masks[wanted])
    table = torch.tensor(pairs)
    targets = Targets(boxes, masks)
    return Batch(
        images=torch.stack(images),
        words=list(words),
        picture_of_pair=table[:, 0],
        word_of_pair=table[:, 1],
        targets=targets,
        mask_side_px=options.mask_side_px,
        targets_are_dense=options.asks_all,
    )


def _classes(options: BatchOptions, rng: random.Random) -> list[int]:
    """Classes to prompt: all in order, or a weighted sample without repetition."""
    if options.asks_all:
        return list(range(len(CLASS_NAMES)))
    # The largest of u^(1/w) are a weighted sample without repetition (Efraimidis and Spirakis, 2006).
    keys = [rng.random() ** (1 / weight) for weight in _CLASS_WEIGHTS]
    return sorted(range(len(CLASS_NAMES)), key=keys.__getitem__, reverse=True)[: options.prompts]


def _changed(sample: Sample, options: BatchOptions, rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """Augment and resize a sample (mirroring and brightness at random): picture in -1..1, masks and boxes."""
    image = torch.from_numpy(sample.image).permute(2, 0, 1).float()
    masks, boxes = torch.from_numpy(sample.masks).float(), torch.from_numpy(sample.boxes_cxcywh.copy())
    if rng.random() < 0.5:
        image, masks = image.flip(-1), masks.flip(-1)
        boxes[:, 0] = 1 - boxes[:, 0]
    image, masks = _resized(image, options.image_side_px), _resized(masks, options.mask_side_px)
    if rng.random() < _RECOLOUR_CHANCE:
        tint = torch.tensor([rng.uniform(0.9, 1.1) for _ in range(3)])[:, None, None]
        image = (image * tint * rng.uniform(0.75, 1.25) + rng.uniform(-13, 13)).clamp(0, 255)
    return image / 127.5 - 1, masks, boxes


def _resized(planes: Tensor, side_px: int) -> Tensor:
    """Resize planes (N, H, W) to (N, side, side)."""
    if planes.shape[-1] == side_px or not len(planes):
        return planes if len(planes) else planes.new_zeros(0, side_px, side_px)
    return F.interpolate(planes[None], size=(side_px, side_px), mode="bilinear", antialias=True, align_corners=False)[0]
