"""Merge of the sorted listings of input and output: no request per image, bounded memory.

The suffixes of a group sort `.JPEG < .JPG < .jpeg < .jpg < .json < .npz`. So a JSON is listed after every image
that it can have, and its outputs are known when the listing of the output has passed its NPZ. Keys of another group
may lie between (`a.jpg`, `a.k.json`, `a.npz`). A group of the input closes at the key of its JSON, or where that key
would be: so groups without a JSON are in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from job.storage.keys import IMAGE_SUFFIXES, JSON_SUFFIX, MASK_SUFFIX, ordered, split_key


@dataclass(frozen=True)
class ListedInput:
    """A JSON of the input, with what the listings show.

    Attributes:
        json: Its key.
        image: Key of its image, or None if there is none.
        is_done: The output holds JSON, NPZ and, where images are copied, the image.
        has_prior: The output holds a JSON of this key.
        has_json: The input holds this JSON; else the input is an image without one.
    """

    json: str
    image: str | None
    is_done: bool
    has_prior: bool
    has_json: bool = True


@dataclass
class PairingCounts:
    """What is no input; complete when the merge is exhausted.

    Attributes:
        images_without_json: Number of images without a JSON.
        unused_images: Number of images whose name differs from that of an input's image by its suffix alone.
    """

    images_without_json: int = 0
    unused_images: int = 0


class _Group(NamedTuple):
    """Files of one stem in the input."""

    stem: str
    image_suffixes: set[str]
    has_json: bool


def pair_listings(
    input_keys: Iterable[str],
    output_keys: Iterable[str],
    *,
    needs_image: bool,
    counts: PairingCounts,
    takes_images: bool = False,
) -> Iterator[ListedInput]:
    """Merge the sorted keys of input and output.

    Args:
        input_keys: Keys of the input, ascending.
        output_keys: Keys of the output, ascending, without its `_sam3/`.
        needs_image: Whether an input is done only when its image is in the output.
        counts: Filled with the images that are no inputs.
        takes_images: Whether an image without a JSON is an input too, under the key that its JSON would have.

    Yields:
        Every JSON of the input, and every image without one that is an input, ascending by the key of the JSON.
    """
    outputs = _OutputGroups(output_keys)
    for stem, image_suffixes, has_json in _input_groups(input_keys):
        if not has_json and not takes_images:
            counts.images_without_json += len(image_suffixes)
            continue
        counts.unused_images += max(len(image_suffixes) - 1, 0)
        image = next((stem + suffix for suffix in IMAGE_SUFFIXES if suffix in image_suffixes), None)
        found = outputs.suffixes_of(stem)
        image_is_there = image is not None and image.removeprefix(stem) in found
        yield ListedInput(
            json=stem + JSON_SUFFIX,
            image=image,
            is_done={JSON_SUFFIX, MASK_SUFFIX} <= found and (image_is_there or not needs_image),
            has_prior=JSON_SUFFIX in found,
            has_json=has_json,
        )


def _input_groups(keys: Iterable[str]) -> Iterator[_Group]:
    """Every stem with a JSON or an image, ascending by the key of its JSON."""
    opened: dict[str, set[str]] = {}
    for key in keys:
        stem, suffix = split_key(key)
        if opened and not (len(opened) == 1 and stem in opened):  # else no stem can be passed: the usual case
            yield from _passed(opened, ordered(key))
        if suffix in IMAGE_SUFFIXES:
            opened.setdefault(stem, set()).add(suffix)
        elif suffix == JSON_SUFFIX:
            yield _Group(stem, opened.pop(stem, set()), has_json=True)
    yield from _passed(opened, None)


def _passed(opened: dict[str, set[str]], order: bytes | None) -> Iterator[_Group]:
    """Remove the stems whose JSON would have been listed before a key (None: at all), ascending by the JSON's key."""
    passed = [
        (json_order, stem)
        for stem in opened
        if (json_order := ordered(stem + JSON_SUFFIX)) and (order is None or json_order < order)
    ]
    for _, stem in sorted(passed):
        yield _Group(stem, opened.pop(stem), has_json=False)


class _OutputGroups:
    """Finds the suffixes of a stem in a sorted listing; stems must be requested in the order of their JSON keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = iter(keys)
        self._next: str | None = next(self._keys, None)
        self._groups: dict[str, set[str]] = {}

    def suffixes_of(self, stem: str) -> set[str]:
        json_order = ordered(stem + JSON_SUFFIX)
        for passed in [other for other in self._groups if ordered(other + JSON_SUFFIX) < json_order]:
            del self._groups[passed]
        last = ordered(stem + MASK_SUFFIX)
        while self._next is not None and ordered(self._next) <= last:
            group, suffix = split_key(self._next)
            if suffix and ordered(group + JSON_SUFFIX) >= json_order:
                self._groups.setdefault(group, set()).add(suffix)
            self._next = next(self._keys, None)
        return self._groups.get(stem, set())
