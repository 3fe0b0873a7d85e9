"""The split of a data set into training and validation images: whole cameras or days go to one side."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from job.errors import UsageError
from job.formats.instance_table import InstanceRow

Side = Literal["", "train", "val"]
GroupField = Literal["source.camera", "source.garage", "day"]
GROUP_FIELDS: tuple[GroupField, ...] = ("source.camera", "source.garage", "day")


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How to split.

    Attributes:
        share: Share of the images in training, 0 to 1.
        by: Fields of the input's JSON whose values belong to one side together; none: each image by itself.
    """

    share: float
    by: tuple[GroupField, ...] = ()

    def group_of(self, row: InstanceRow) -> str:
        """The images of one group are on one side."""
        return "/".join(_value(row, name) for name in self.by) if self.by else row.json


def _value(row: InstanceRow, name: GroupField) -> str:
    if name == "day":
        if row.timestamp_ms is None:
            return ""
        return datetime.fromtimestamp(row.timestamp_ms / 1000, UTC).strftime("%Y-%m-%d")
    return (row.camera if name == "source.camera" else row.garage) or ""


class Split:
    """The side of every image."""

    def __init__(self, options: SplitOptions, groups: Iterable[str] = ()) -> None:
        """Choose the groups of the validation side.

        Groups are taken in the order of a digest of their names, each if it brings the number of validation images
        closer to the share; so the choice does not depend on the order of the images.

        Args:
            options: How to split.
            groups: The group of each image; not read if each image is a group.

        Raises:
            UsageError: There are images of one group only.
        """
        self._options = options
        self._validation: frozenset[str] | None = _choose(options, Counter(groups)) if options.by else None

    def side_of(self, row: InstanceRow) -> Side:
        """The side of an image."""
        group = self._options.group_of(row)
        if self._validation is not None:
            return "val" if group in self._validation else "train"
        return "train" if int(_digest(group)[:13], 16) / 16**13 < self._options.share else "val"


def _choose(options: SplitOptions, sizes: Counter[str]) -> frozenset[str]:
    if not sizes:
        return frozenset()
    if len(sizes) < 2:
        which = next(iter(sizes), "") or "no value"
        raise UsageError(
            f"--split_by {','.join(options.by)}: all images have {which!r}, so one side would be empty: "
            "split by another field, or leave --split_by out"
        )
    wanted = (1 - options.share) * sizes.total()
    chosen: set[str] = set()
    count = 0
    for group in sorted(sizes, key=_digest):
        if abs(count + sizes[group] - wanted) < abs(count - wanted) and len(chosen) < len(sizes) - 1:
            chosen.add(group)
            count += sizes[group]
    return frozenset(chosen or {min(sizes, key=lambda group: (sizes[group], _digest(group)))})


def _digest(group: str) -> str:
    return hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()
