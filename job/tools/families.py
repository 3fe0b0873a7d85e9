"""Two sorted listings, input and output, brought together image by image, whatever is on either side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush, merge
from typing import Literal

from job.storage.keys import JSON_SUFFIX, ordered, split_key
from job.storage.store import StoredObject

Side = Literal["input", "output"]


@dataclass
class Family:
    """All objects of one image.

    Attributes:
        stem: What their keys begin with.
        input_sizes: Size in bytes by suffix.
        output_sizes: The same of the output.
    """

    stem: str
    input_sizes: dict[str, int] = field(default_factory=dict)
    output_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def json_key(self) -> str:
        """Key of its JSON, there or not."""
        return self.stem + JSON_SUFFIX


def families(input_objects: Iterable[StoredObject], output_objects: Iterable[StoredObject]) -> Iterator[Family]:
    """Merge two sorted listings.

    A stem stays open only while keys begin with it and a dot, so memory does not grow with the listings.

    Args:
        input_objects: Ascending.
        output_objects: Ascending, without `_sam3/`.

    Yields:
        Every family of either side, ascending by the key of its JSON.
    """
    tagged = merge(
        (("input", item) for item in input_objects),
        (("output", item) for item in output_objects),
        key=lambda pair: ordered(pair[1].key),
    )
    opened: dict[str, Family] = {}
    closed: list[tuple[bytes, str, Family]] = []
    for side, item in tagged:
        stem, suffix = split_key(item.key)
        if not suffix:
            continue
        for passed in [other for other in opened if not item.key.startswith(other + ".")]:
            _close(opened.pop(passed), closed)
        family = opened.setdefault(stem, Family(stem))
        (family.input_sizes if side == "input" else family.output_sizes)[suffix] = item.size
        yield from _before_all(opened, closed)
    for family in opened.values():
        _close(family, closed)
    yield from _before_all({}, closed)


def _close(family: Family, closed: list[tuple[bytes, str, Family]]) -> None:
    heappush(closed, (ordered(family.json_key), family.stem, family))


def _before_all(opened: dict[str, Family], closed: list[tuple[bytes, str, Family]]) -> Iterator[Family]:
    """Closed families that no open one comes before."""
    first = min((ordered(family.json_key) for family in opened.values()), default=None)
    while closed and (first is None or closed[0][0] < first):
        yield heappop(closed)[2]
