"""Merge of the sorted listings of input and output: no request per image, bounded memory.

The suffixes of a group sort `.JPEG < .JPG < .jpeg < .jpg < .json < .npz`. So a JSON is listed after every image
that it can have, and its outputs are known when the listing of the output has passed its NPZ. Keys of another group
may lie between (`a.jpg`, `a.k.json`, `a.npz`): a group stays open only while keys begin with its stem and a dot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from job.storage.keys import IMAGE_SUFFIXES, JSON_SUFFIX, MASK_SUFFIX, ordered, split_key


@dataclass(frozen=True)
class ListedInput:
    """A JSON of the input, with what the listings show.

    Attributes:
        json: Its key.
        image: Key of its image, or None if there is none.
        is_done: The output holds JSON, NPZ and, where images are copied, the image.
        has_prior: The output holds a JSON of this key.
    """

    json: str
    image: str | None
    is_done: bool
    has_prior: bool


@dataclass
class PairingCounts:
    """Counts of images without a JSON, complete when the merge is exhausted; holds the first `keep_keys` keys."""

    images_without_json: int = 0
    images_without_json_keys: list[str] = field(default_factory=list)
    keep_keys: int = 1000


def pair_listings(
    input_keys: Iterable[str], output_keys: Iterable[str], *, needs_image: bool, counts: PairingCounts
) -> Iterator[ListedInput]:
    """Merge the sorted keys of input and output.

    Args:
        input_keys: Keys of the input, ascending.
        output_keys: Keys of the output, ascending, without its `_sam3/`.
        needs_image: Whether an input is done only when its image is in the output.
        counts: Filled with the images that have no JSON.

    Yields:
        Every JSON of the input, ascending.
    """
    outputs = _OutputGroups(output_keys)
    for stem, image_suffixes in _input_groups(input_keys, counts):
        image = next((stem + suffix for suffix in IMAGE_SUFFIXES if suffix in image_suffixes), None)
        found = outputs.suffixes_of(stem)
        image_is_there = image is not None and image.removeprefix(stem) in found
        yield ListedInput(
            json=stem + JSON_SUFFIX,
            image=image,
            is_done={JSON_SUFFIX, MASK_SUFFIX} <= found and (image_is_there or not needs_image),
            has_prior=JSON_SUFFIX in found,
        )


def _input_groups(keys: Iterable[str], counts: PairingCounts) -> Iterator[tuple[str, set[str]]]:
    """Stem and image suffixes of every JSON, ascending by the JSON's key."""
    open_groups: dict[str, set[str]] = {}
    for key in keys:
        for stem in [stem for stem in open_groups if not key.startswith(stem + ".")]:
            _count_unpaired(stem, open_groups.pop(stem), counts)
        stem, suffix = split_key(key)
        if suffix in IMAGE_SUFFIXES:
            open_groups.setdefault(stem, set()).add(suffix)
        elif suffix == JSON_SUFFIX:
            yield stem, open_groups.pop(stem, set())
    for stem, suffixes in open_groups.items():
        _count_unpaired(stem, suffixes, counts)


def _count_unpaired(stem: str, suffixes: set[str], counts: PairingCounts) -> None:
    counts.images_without_json += len(suffixes)
    if len(counts.images_without_json_keys) < counts.keep_keys:
        counts.images_without_json_keys.extend(sorted(stem + suffix for suffix in suffixes))


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
