"""Merge of two sorted listings, input and output, into one group of objects per image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush, merge
from typing import Literal

from job.storage.keys import JSON_SUFFIX, is_machine_file, ordered, split_key
from job.storage.store import StoredObject

Side = Literal["input", "output"]


@dataclass
class ImageGroup:
    """All objects of one image.

    Attributes:
        stem: The common prefix of their keys.
        input_sizes: Size in bytes by suffix.
        output_sizes: The same for the output.
    """

    stem: str
    input_sizes: dict[str, int] = field(default_factory=dict)
    output_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def json_key(self) -> str:
        """Key of its JSON, whether it exists or not."""
        return self.stem + JSON_SUFFIX


def groups(input_objects: Iterable[StoredObject], output_objects: Iterable[StoredObject]) -> Iterator[ImageGroup]:
    """Merge two sorted listings.

    A stem stays open only while keys begin with it and a dot, so memory does not grow with the listings.

    Args:
        input_objects: Ascending.
        output_objects: Ascending, without `_sam3/`.

    Yields:
        Every group of either side, ascending by the key of its JSON; none of files that macOS or Jupyter left.
    """
    tagged = merge(
        (("input", item) for item in input_objects),
        (("output", item) for item in output_objects),
        key=lambda pair: ordered(pair[1].key),
    )
    opened: dict[str, ImageGroup] = {}
    closed: list[tuple[bytes, str, ImageGroup]] = []
    for side, item in tagged:
        stem, suffix = split_key(item.key)
        if not suffix or is_machine_file(item.key):
            continue
        for passed in [other for other in opened if not item.key.startswith(other + ".")]:
            _close(opened.pop(passed), closed)
        group = opened.setdefault(stem, ImageGroup(stem))
        (group.input_sizes if side == "input" else group.output_sizes)[suffix] = item.size
        yield from _before_all(opened, closed)
    for group in opened.values():
        _close(group, closed)
    yield from _before_all({}, closed)


def _close(group: ImageGroup, closed: list[tuple[bytes, str, ImageGroup]]) -> None:
    heappush(closed, (ordered(group.json_key), group.stem, group))


def _before_all(opened: dict[str, ImageGroup], closed: list[tuple[bytes, str, ImageGroup]]) -> Iterator[ImageGroup]:
    """Closed groups whose key is below that of every open group."""
    first = min((ordered(group.json_key) for group in opened.values()), default=None)
    while closed and (first is None or closed[0][0] < first):
        yield heappop(closed)[2]
