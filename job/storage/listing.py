"""Lists many keys in order, with concurrent requests.

The key space is split into ranges at its upper folders. Up to 32 ranges are listed concurrently, each a few pages
ahead of the reader. The pages are yielded in order of the ranges, so memory holds at most
`_CONCURRENT_RANGES * _PAGES_AHEAD` pages for any number of keys.
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

_CONCURRENT_RANGES = 32
_PAGES_AHEAD = 3
_MAX_SPLIT_DEPTH = 6
LAST_CHARACTER = "\U0010ffff"
"""Sorts after every other character, in UTF-8 as well."""
_POLL_S = 0.2


@dataclass(frozen=True)
class Page:
    """A part of a listing: objects, ascending, and whether it is the last part."""

    objects: tuple[StoredObject, ...]
    is_last: bool


@dataclass(frozen=True)
class DirListing:
    """What is directly in a folder.

    Attributes:
        objects: Ascending.
        folders: Their names, ascending.
        next_key: After which key the listing continues, or None at its end.
    """

    objects: tuple[StoredObject, ...]
    folders: tuple[str, ...]
    next_key: str | None = None


@dataclass(frozen=True)
class _Range:
    """Keys with the prefix `prefix`, after `after`; flat if no folder was seen among them."""

    prefix: str
    after: str
    is_flat: bool = False


ListPage = Callable[[str, str], Page]
ListDir = Callable[[str, str], DirListing]


def list_in_order(
    list_page: ListPage, list_dir: ListDir, folder: str, *, skip: str | None, after: str
) -> Iterator[StoredObject]:
    """Objects in a folder and all its subfolders, ascending.

    Args:
        list_page: Lists objects under a prefix, after a key.
        list_dir: Lists what is directly in a folder, after a key.
        folder: Prefix of the folder, empty or with a slash at its end.
        skip: A folder to leave out, without a slash at its end.
        after: Only keys after this one.

    Raises:
        ConfigurationError: The storage does not list in byte order.
    """
    skipped = f"{skip}/" if skip else None
    for item in _checked(_list_all(list_page, list_dir, _Range(folder, after), skipped)):
        if skipped is None or not item.key.startswith(skipped):
            yield item


def _list_all(list_page: ListPage, list_dir: ListDir, whole: _Range, skipped: str | None) -> Iterator[StoredObject]:
    """A listing of more than one page is split into ranges after its first page."""
    first = list_page(whole.prefix, whole.after)
    yield from first.objects
    if not first.is_last:
        parts = _split(list_dir, _ranges_after(whole.prefix, first.objects[-1].key), skipped)
        yield from _read_ahead(list_page, parts)


def _ranges_after(folder: str, key: str) -> list[_Range | StoredObject]:
    """Ranges of a folder after a key: the rest of the key's own folder, then of each parent folder.

    So no folder is listed after a key of one of its subfolders, to which servers respond differently.
    """
    ranges: list[_Range | StoredObject] = []
    inner, after = key[: key.rfind("/") + 1], key
    while len(inner) > len(folder):
        ranges.append(_Range(inner, after))
        inner, after = inner[: inner.rfind("/", 0, -1) + 1], f"{inner}{LAST_CHARACTER}"
    return [*ranges, _Range(folder, after)]


def _split(list_dir: ListDir, parts: list[_Range | StoredObject], skipped: str | None) -> list[_Range | StoredObject]:
    """Split ranges at their folders repeatedly, until there are enough parts."""
    for _ in range(_MAX_SPLIT_DEPTH):
        ranges = [part for part in parts if isinstance(part, _Range)]
        to_split = [part for part in ranges if not part.is_flat]
        if not to_split or len(ranges) >= _CONCURRENT_RANGES:
            break
        pieces_of = dict(zip(to_split, map_in_threads(lambda part: _split_once(list_dir, part), to_split), strict=True))
        flat = [
            piece for part in parts for piece in (pieces_of.get(part, [part]) if isinstance(part, _Range) else [part])
        ]
        parts = [part for part in flat if skipped is None or not _key_of(part).startswith(skipped)]
    return parts


def _split_once(list_dir: ListDir, part: _Range) -> list[_Range | StoredObject]:
    """One request: the objects directly in a folder, each of its folders as a range, and the keys beyond as a range."""
    listing = list_dir(part.prefix, part.after)
    pieces: list[_Range | StoredObject] = list(listing.objects)
    pieces.extend(_Range(f"{part.prefix}{name}/", "") for name in listing.folders)
    pieces.sort(key=lambda item: ordered(_key_of(item)))
    if listing.next_key is not None:
        pieces.append(_Range(part.prefix, listing.next_key, is_flat=not listing.folders))
    return pieces


def _key_of(part: _Range | StoredObject) -> str:
    return part.key if isinstance(part, StoredObject) else part.prefix


def _read_ahead(list_page: ListPage, parts: list[_Range | StoredObject]) -> Iterator[StoredObject]:
    ended = threading.Event()
    pool = ThreadPoolExecutor(_CONCURRENT_RANGES, thread_name_prefix="list")
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
        except BaseException as exc:  # noqa: BLE001 - raised again by the reader
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
    """Check the order, on which the plan depends; S3 directory buckets do not list in order."""
    previous = b""
    for item in objects:
        key = ordered(item.key)
        if key < previous:
            raise ConfigurationError(
                f"the storage does not list in order ({item.key!r} follows a greater key): use a general purpose bucket"
            )
        previous = key
        yield item
