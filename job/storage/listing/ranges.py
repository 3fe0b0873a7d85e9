"""Ranges of a parallel listing, and what it learns from those that are listed: sizes of folders, and their names."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from job.storage.listing.key_space import KeySpace, Reach
from job.storage.listing.pages import LAST_CHARACTER
from job.storage.store import StoredObject

MAX_RANGES = 32
"""Ranges of one split at names."""
RANGE_PAGES = 4
"""Intended length of a range."""
_SMALL_FOLDERS = 4
"""Folders in a page from which on they count as names: to list them would cost more than it tells."""
_FIRST_REACH = 8
"""Ranges of the first split of a folder at names; how many later ones have depends on how many are empty."""
_OBSERVED = 8
"""Names of a page whose characters are looked at."""
_UNKNOWN_PAGES = 1e9

Objects = tuple[StoredObject, ...]


@dataclass
class Batch:
    """Ranges of one split by expected names; tells how far the next split should reach."""

    size: int
    left: int
    empty: int = 0


@dataclass
class Folders:
    """Folders that one range was begun for, which may have been split since.

    Attributes:
        depth: Depth of the folders.
        count: Number of folders.
        left: Ranges that are not done.
        keys: Number of keys so far.
        outer: The folders that these are in, if they are listed as ranges of theirs.
    """

    depth: int
    outer: Folders | None = None
    count: int = 1
    left: int = 1
    keys: int = 0

    def add(self, keys: int) -> None:
        """Count keys, here and in the outer folders."""
        self.keys += keys
        if self.outer is not None:
            self.outer.add(keys)


@dataclass(eq=False)
class Range:
    """The keys after `after` up to `end`, in order; `end` None has no end.

    Attributes:
        after: Last key that is listed.
        end: Last key that may belong to it.
        folder: The folder at whose entries it was cut.
        folders: The folders that it is a part of, of known depth; None if unknown.
        is_whole: Whether it is all of one of these folders, as it was found; neighbours may be listed together.
        first: First key of its last page.
        entries: Number of folders in its last page, by their depth.
        share: Keys of its last page, as a fraction of a full page.
        pages: Pages that the reader has not taken.
        keys: Number of its keys so far.
        is_begun: Whether a request was made for it.
        is_busy: Whether a request is under way.
        is_done: Whether all its keys are in `pages` or read.
        was_split: Whether a split was tried since its last page: 1, and 2 as a short range.
        batch: The split that made it by an expected name.
        reach: Ranges of its next split at names, at least: twice those of the split whose last range it is.
    """

    after: str
    end: str | None
    folder: str
    folders: Folders | None = None
    is_whole: bool = False
    first: str = ""
    entries: dict[int, int] = field(default_factory=dict)
    share: float = 1.0
    pages: deque[Objects] = field(default_factory=deque)
    keys: int = 0
    is_begun: bool = False
    is_busy: bool = False
    is_done: bool = False
    was_split: int = 0
    batch: Batch | None = None
    reach: int = 0

    @property
    def levels(self) -> list[str]:
        """Folders of its last key below its own folder, outermost first; small ones count as names."""
        levels = [self.after[:end] for end in _slashes(self.after, len(self.folder))]
        while levels and self.entries.get(levels[-1].count("/") - 1, 1) >= _SMALL_FOLDERS:
            levels.pop()
        return levels

    @property
    def held(self) -> int:
        """Pages held, and the one under way."""
        return len(self.pages) + self.is_busy

    def begin_after(self, page: Objects) -> None:
        """Begin after a page of the keys before it, as if it were its own."""
        self.is_begun = not self.is_done
        self.first, self.entries = page[0].key, entries(page)

    def take(self, own: Objects, page_keys: int) -> None:
        """Add a page of its keys; a full page has `page_keys` of them."""
        self.pages.append(own)
        self.keys += len(own)
        if self.folders is not None:
            self.folders.add(len(own))
        self.first, self.after = own[0].key, own[-1].key
        self.entries, self.share = entries(own), len(own) / page_keys

    def cut(self, borders: Sequence[str]) -> list[Range]:
        """Cut off what follows the first border; returns a range for each border."""
        if not borders:
            return []
        batch = Batch(len(borders), len(borders))
        if self.folders is not None:
            self.folders.left += len(borders)
        ends = [*borders[1:], self.end]
        parts = [
            Range(start, end, self.folder, self.folders, batch=batch) for start, end in zip(borders, ends, strict=True)
        ]
        parts[-1].reach = 2 * len(borders)
        self.end = borders[0]
        return parts


class Experience:
    """What a listing has learned.

    Attributes:
        page_keys: Keys of a full page.
    """

    def __init__(self, first: Objects) -> None:
        """Learn from the first page."""
        self.page_keys = len(first)
        self._spaces: dict[int, KeySpace] = {}
        self._reach: dict[int, int] = {}
        self._per_folder = {depth: 1 / count for depth, count in entries(first).items() if count > 1}
        self.observe(first)

    def observe(self, objects: Objects) -> None:
        """Learn the characters of names, in each folder from the root on."""
        self.page_keys = max(self.page_keys, len(objects))
        for item in (*objects[:: max(1, len(objects) // _OBSERVED)], objects[-1]):
            for depth, start in enumerate((0, *_slashes(item.key, 0))):
                self._spaces.setdefault(depth, KeySpace()).observe(item.key[start:])

    def learn(self, item: Range) -> None:
        """Learn from a range that is done how many pages a folder has, and how far a split by names may reach."""
        batch = item.batch
        self.finish(item.folders)
        if batch is not None:
            depth = item.folder.count("/")
            reach = self._reach.get(depth, _FIRST_REACH)
            batch.left -= 1
            batch.empty += not item.keys
            if batch.empty == 1 and not item.keys:
                self._reach[depth] = max(1, reach // 2)
            elif not batch.left and not batch.empty and batch.size >= reach:
                self._reach[depth] = min(MAX_RANGES, 2 * reach)

    def finish(self, folders: Folders | None) -> None:
        """Learn that one of the ranges of these folders is done."""
        if folders is None:
            return
        folders.left -= 1
        if not folders.left:
            found = folders.keys / self.page_keys / folders.count
            known = self._per_folder.get(folders.depth, found)
            self._per_folder[folders.depth] = (known + found) / 2
            self.finish(folders.outer)

    def folders_in_range(self, folders: Folders) -> int:
        """Folders of this depth that are expected to fill a range; one if their size is unknown."""
        return max(1, int(RANGE_PAGES / max(self._per_folder.get(folders.depth, RANGE_PAGES), 1e-3)))

    def pages_left(self, item: Range) -> float:
        """Pages that the folders of a range are expected to have left, by those listed before."""
        if item.folders is None or item.folders.depth not in self._per_folder:
            return _UNKNOWN_PAGES
        expected = self._per_folder[item.folders.depth] * item.folders.count
        left = expected - item.folders.keys / self.page_keys
        return left if left >= -1 else _UNKNOWN_PAGES  # a folder larger than the others may have any size

    def borders_ahead(self, item: Range, left: float, least: int) -> list[str]:
        """Keys at which a range inside one folder may be split, some pages apart; none if it seems short.

        Args:
            item: A range with a page.
            left: Pages that it is expected to have left.
            least: Pages that it must have left.
        """
        folder, depth = item.folder, item.folder.count("/")
        if not item.first.startswith(folder):
            return []
        usual = self._per_folder.get(depth - 1, _UNKNOWN_PAGES)
        if item.batch is None and item.keys <= (usual + 2) * self.page_keys:
            left = min(left, usual)
        if left < least:
            return []
        learned = self._reach.get(depth, _FIRST_REACH)
        most = max(learned, item.reach) if item.batch is not None and not item.batch.empty else learned
        is_long = item.batch is not None or item.keys >= RANGE_PAGES * self.page_keys
        is_sparse = is_long and learned == 1 and left == _UNKNOWN_PAGES
        reach = Reach(
            pages=RANGE_PAGES / item.share,
            most=_FIRST_REACH if is_sparse else min(most, MAX_RANGES, math.ceil(left / RANGE_PAGES)),
            least=least / item.share,
            is_sparse=is_sparse,
        )
        end = None
        if item.end is not None and item.end.startswith(folder) and item.end != end_of(folder):
            end = item.end.removeprefix(folder)
        page = item.first.removeprefix(folder), item.after.removeprefix(folder)
        return [folder + name for name in self._spaces.setdefault(depth, KeySpace()).names_ahead(page, end, reach)]


def end_of(folder: str) -> str:
    """A key after all keys of a folder."""
    return f"{folder}{LAST_CHARACTER}"


def before(folder: str) -> str:
    """A key before all keys of a folder, and after all keys before them; a dot precedes a slash."""
    return f"{folder[:-1]}.{LAST_CHARACTER}"


def entries(objects: Objects) -> dict[int, int]:
    """Number of folders in a page by depth; the folders of the root have depth 0."""
    found: dict[int, int] = {}
    folder, folders = "", list[str]()
    for item in objects:
        key = item.key
        if folder and key.startswith(folder) and key.find("/", len(folder)) < 0:
            continue
        names = key.split("/")[:-1]
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(folders, names, strict=False)))
        for depth in range(common, len(names)):
            found[depth] = found.get(depth, 0) + 1
        folder, folders = "/".join((*names, "")), names
    return found


def _slashes(key: str, start: int) -> Iterator[int]:
    """Ends of the folders of a key, from the outermost one below `start` characters."""
    position = key.find("/", start)
    while position >= 0:
        yield position + 1
        position = key.find("/", position + 1)
