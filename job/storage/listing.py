"""A long listing in order, from many requests at once.

The key space is cut into ranges, at the folders that lie near the top; up to 32 ranges are listed at a time, each
a few pages ahead of the reader. The pages are handed out in order of the ranges, so memory holds
`_RANGES_AT_ONCE * _PAGES_AHEAD` pages at most, however many keys there are.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from job.errors import ConfigurationError
from job.storage.keys import ordered
from job.storage.store import StoredObject
from job.system.threads import map_in_threads

_RANGES_AT_ONCE = 32
_PAGES_AHEAD = 3
_DEEPEST_CUT = 6
LAST_CHARACTER = "\U0010ffff"
"""Sorts after every other character, in UTF-8 as well."""
_POLL_S = 0.2


@dataclass(frozen=True)
class Page:
    """A part of a listing: objects, ascending, and whether it was the last."""

    objects: tuple[StoredObject, ...]
    is_last: bool


@dataclass(frozen=True)
class Level:
    """What lies directly in a folder.

    Attributes:
        objects: Ascending.
        folders: Their names, ascending.
        next_key: Where the listing of a folder of many goes on, or None at its end.
    """

    objects: tuple[StoredObject, ...]
    folders: tuple[str, ...]
    next_key: str | None = None


@dataclass(frozen=True)
class _Range:
    """Keys that begin with `prefix`, after `after`; flat when no folder was seen among them."""

    prefix: str
    after: str
    is_flat: bool = False


ListPage = Callable[[str, str], Page]
ListLevel = Callable[[str, str], Level]


def list_in_order(
    list_page: ListPage, list_level: ListLevel, folder: str, *, skip: str | None, after: str
) -> Iterator[StoredObject]:
    """Objects in a folder, however deep, ascending.

    Args:
        list_page: Lists objects under a prefix, after a key.
        list_level: Lists what lies directly in a folder, after a key.
        folder: Prefix of the folder, empty or with a slash at its end.
        skip: A folder to leave out.
        after: Only keys after this one.

    Raises:
        ConfigurationError: The storage does not list in order.
    """
    skipped = f"{skip}/" if skip else None
    for item in _checked(_list_all(list_page, list_level, _Range(folder, after), skipped)):
        if skipped is None or not item.key.startswith(skipped):
            yield item


def _list_all(list_page: ListPage, list_level: ListLevel, whole: _Range, skipped: str | None) -> Iterator[StoredObject]:
    """A listing of one page is done; a longer one is cut into ranges from its second page on."""
    first = list_page(whole.prefix, whole.after)
    yield from first.objects
    if not first.is_last:
        parts = _cut(list_level, _ranges_after(whole.prefix, first.objects[-1].key), skipped)
        yield from _read_ahead(list_page, parts)


def _ranges_after(folder: str, key: str) -> list[_Range | StoredObject]:
    """What of a folder comes after a key: the rest of the key's own folder, then of each folder around it.

    So no level is ever asked for from a key that lies deeper in it, to which servers give different answers.
    """
    ranges: list[_Range | StoredObject] = []
    inner, after = key[: key.rfind("/") + 1], key
    while len(inner) > len(folder):
        ranges.append(_Range(inner, after))
        inner, after = inner[: inner.rfind("/", 0, -1) + 1], f"{inner}{LAST_CHARACTER}"
    return [*ranges, _Range(folder, after)]


def _cut(list_level: ListLevel, parts: list[_Range | StoredObject], skipped: str | None) -> list[_Range | StoredObject]:
    """Cut ranges at their folders, and those again, until there are enough parts."""
    for _ in range(_DEEPEST_CUT):
        ranges = [part for part in parts if isinstance(part, _Range)]
        to_cut = [part for part in ranges if not part.is_flat]
        if not to_cut or len(ranges) >= _RANGES_AT_ONCE:
            break
        cut = dict(zip(to_cut, map_in_threads(lambda part: _cut_once(list_level, part), to_cut), strict=True))
        flat = [piece for part in parts for piece in (cut.get(part, [part]) if isinstance(part, _Range) else [part])]
        parts = [part for part in flat if skipped is None or not _key_of(part).startswith(skipped)]
    return parts


def _cut_once(list_level: ListLevel, part: _Range) -> list[_Range | StoredObject]:
    """One request: the objects directly in a folder as they are, its folders as ranges, what is beyond as one more."""
    level = list_level(part.prefix, part.after)
    cut: list[_Range | StoredObject] = list(level.objects)
    cut.extend(_Range(f"{part.prefix}{name}/", "") for name in level.folders)
    cut.sort(key=lambda item: ordered(_key_of(item)))
    if level.next_key is not None:
        cut.append(_Range(part.prefix, level.next_key, is_flat=not level.folders))
    return cut


def _key_of(part: _Range | StoredObject) -> str:
    return part.key if isinstance(part, StoredObject) else part.prefix


def _read_ahead(list_page: ListPage, parts: list[_Range | StoredObject]) -> Iterator[StoredObject]:
    ended = threading.Event()
    pool = ThreadPoolExecutor(_RANGES_AT_ONCE, thread_name_prefix="list")
    inboxes: dict[int, queue.Queue[Page | BaseException]] = {}
    try:
        for number, part in enumerate(parts):
            if isinstance(part, _Range):
                inboxes[number] = queue.Queue(_PAGES_AHEAD)
                pool.submit(_list_range, list_page, part, inboxes[number], ended)
        for number, part in enumerate(parts):
            if isinstance(part, StoredObject):
                yield part
            else:
                yield from _objects_of(inboxes.pop(number))
    finally:
        ended.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _objects_of(inbox: queue.Queue[Page | BaseException]) -> Iterator[StoredObject]:
    while True:
        page = inbox.get()
        if isinstance(page, BaseException):
            raise page
        yield from page.objects
        if page.is_last:
            return


def _list_range(
    list_page: ListPage, part: _Range, inbox: queue.Queue[Page | BaseException], ended: threading.Event
) -> None:
    after = part.after
    while True:
        try:
            page: Page | BaseException = list_page(part.prefix, after)
        except BaseException as exc:  # noqa: BLE001 - raised again where the pages are read
            page = exc
        while not ended.is_set():
            try:
                inbox.put(page, timeout=_POLL_S)
                break
            except queue.Full:
                continue
        if ended.is_set() or not isinstance(page, Page) or page.is_last:
            return
        after = page.objects[-1].key


def _checked(objects: Iterator[StoredObject]) -> Iterator[StoredObject]:
    """The whole plan rests on the order, and not every storage that speaks S3 keeps it (directory buckets do not)."""
    before = b""
    for item in objects:
        key = ordered(item.key)
        if key < before:
            raise ConfigurationError(
                f"the storage does not list in order ({item.key!r} comes late): use a general purpose bucket"
            )
        before = key
        yield item
