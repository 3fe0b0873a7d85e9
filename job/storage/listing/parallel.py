"""A listing in order by up to 32 concurrent requests, whatever the shape of the tree.

The keys after the first page are cut into ranges, which are listed concurrently and read in order. A range that turns
out long is split while it is listed: at the folders that its keys lie in, by one request for each level of folders, or,
inside one folder, at names that are expected some pages ahead (`key_space`). Ranges are begun in order, and only a
bounded number of pages ahead of the reader, so memory does not grow with the number of keys. Small folders are listed
several at once. What a page holds beyond its range is used for the ranges that follow, if they have not begun.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from job.storage.listing.pages import (
    DirListing,
    Page,
    Pages,
    is_in,
    is_rising,
    list_one_by_one,
    logger,
)
from job.storage.listing.ranges import RANGE_PAGES, Experience, Folders, Objects, Range, before, end_of
from job.storage.store import StoredObject

CONCURRENT_REQUESTS = 32
PAGES_AHEAD = 192
"""Pages from the reader's position on that are fetched before it needs them. Pages further ahead were fetched before a
range in front of them turned out long; there are at most as many again."""
_RANGE_AHEAD = 8
"""Pages that a range fetches ahead of the reader."""


class _DisorderError(Exception):
    """The store does not list the keys after a given key, in order."""


def list_in_order(pages: Pages, prefix: str, *, skip: str | None, after: str) -> Iterator[StoredObject]:
    """Objects in a folder and all its subfolders, ascending.

    A store that does not list in order after any key is listed page by page, with a warning.

    Args:
        pages: The requests.
        prefix: Prefix of the folder, empty or with a slash at its end.
        skip: A folder to leave out, without a slash at its end.
        after: Only keys after this one.

    Raises:
        ConfigurationError: The storage does not list in byte order.
    """
    last = after
    if pages.can_start_anywhere is not False:
        try:
            for objects in _listed(pages, prefix, skip, after):
                yield from objects
                last = objects[-1].key
        except _DisorderError:
            pages.can_start_anywhere = False
            logger.warning("%s does not list in order after any key (StartAfter): listing page by page", pages.url)
    if pages.can_start_anywhere is False:
        yield from list_one_by_one(pages, prefix, skip=skip, after=last)


def _listed(pages: Pages, prefix: str, skip: str | None, after: str) -> Iterator[Objects]:
    first = pages.page(prefix, after)
    if not is_rising(first.objects, after):
        raise _DisorderError
    if not first.is_last and pages.can_start_anywhere is None and len(first.objects) > 1:
        if not pages.check_start(prefix, first):
            raise _DisorderError
        pages.can_start_anywhere = True
    wanted = tuple(item for item in first.objects if not is_in(item.key, skip))
    if wanted:
        yield wanted
    if not first.is_last:
        listing = _ParallelListing(pages, prefix, first.objects, skip)
        try:
            yield from listing.read()
        finally:
            listing.close()


class _ParallelListing:
    """The ranges after the first page; every method but `read` and `close` needs the lock."""

    def __init__(self, pages: Pages, prefix: str, first: Objects, skip: str | None) -> None:
        self._pages = pages
        self._prefix = prefix
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(CONCURRENT_REQUESTS, thread_name_prefix="list")
        self._in_flight = 0
        self._useful = 1
        self._error: BaseException | None = None
        self._is_closed = False
        self._known = Experience(first)
        last = first[-1].key
        self._ranges = [Range(last, None, prefix)]
        if skip is not None and last < end_of(f"{skip}/"):
            self._ranges = [Range(last, before(f"{skip}/"), prefix), Range(end_of(f"{skip}/"), None, prefix)]
        self._ranges[0].is_done = is_in(last, skip)
        self._ranges[0].begin_after(first)

    def read(self) -> Iterator[Objects]:
        """Pages in order; an error of a request is raised when it occurs."""
        while True:
            with self._changed:
                self._drop_read()
                self._schedule()
                while self._error is None and self._ranges and not self._ranges[0].pages:
                    self._changed.wait()
                    self._drop_read()
                if self._error is not None:
                    raise self._error
                if not self._ranges:
                    return
                page = self._ranges[0].pages.popleft()
            yield page

    def close(self) -> None:
        """Make no further request."""
        with self._changed:
            self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _drop_read(self) -> None:
        while self._ranges and self._ranges[0].is_done and not self._ranges[0].held:
            self._ranges.pop(0)

    def _schedule(self) -> None:
        """Split, begin and continue ranges in order. The number of requests grows with the pages that were listed."""
        limit = min(CONCURRENT_REQUESTS, 1 + 3 * self._useful)
        self._advance(limit, is_tail=False)
        if self._in_flight < limit and all(item.is_begun for item in self._ranges):
            self._advance(limit, is_tail=True)

    def _advance(self, limit: int, *, is_tail: bool) -> None:
        """Make requests for the ranges that the reader needs next.

        Args:
            limit: Requests at once.
            is_tail: Whether no range is left to begin, so that short ranges are split too.
        """
        held, position = 0, 0
        while position < len(self._ranges) and self._in_flight < limit and held < PAGES_AHEAD:
            item = self._ranges[position]
            if item.is_begun and not item.is_done and item.first and item.was_split < 1 + is_tail:
                item.was_split = 1 + is_tail
                self._split(item, position, is_tail=is_tail)
            may_go_on = self._in_flight < limit and len(item.pages) < _RANGE_AHEAD
            if may_go_on and not item.is_busy and not item.is_done:
                self._request(item, position)
            held += item.held
            position += 1

    def _request(self, item: Range, position: int) -> None:
        if not item.is_begun and item.is_whole and item.folders is not None:
            self._join(item, item.folders, position)
        item.is_begun = item.is_busy = True
        self._submit(lambda: self._pages.page(self._prefix, item.after), lambda page: self._on_page(item, page))

    def _join(self, item: Range, folders: Folders, position: int) -> None:
        """Add the following folders to a range, as many as are expected to fill it."""
        wanted = self._known.folders_in_range(folders)
        while folders.count < wanted and position + 1 < len(self._ranges):
            following = self._ranges[position + 1]
            if following.is_begun or following.folder != item.folder or not following.is_whole:
                return
            item.end = following.end
            folders.count += 1
            self._known.finish(folders.outer)
            del self._ranges[position + 1]

    def _submit(self, request: Callable[[], Page | DirListing], on_answer: Callable[..., None]) -> None:
        def call() -> None:
            try:
                answer: Page | DirListing | BaseException = request()
            except BaseException as exc:  # noqa: BLE001 - the reader raises it
                answer = exc
            with self._changed:
                self._in_flight -= 1
                if not self._is_closed:
                    self._answer(answer, on_answer)
                self._changed.notify_all()

        self._in_flight += 1
        self._pool.submit(call)

    def _answer(self, answer: Page | DirListing | BaseException, on_answer: Callable[..., None]) -> None:
        try:
            if isinstance(answer, BaseException):
                raise answer
            on_answer(answer)
            if self._error is None:
                self._schedule()
        except BaseException as exc:  # noqa: BLE001 - the reader raises it
            self._error = self._error or exc

    def _on_page(self, item: Range, page: Page) -> None:
        if not is_rising(page.objects, item.after):
            raise _DisorderError
        item.is_busy = False
        start, position = item.after, self._ranges.index(item)
        beyond = self._record(item, page.objects, is_last=page.is_last)
        if item.is_done and not item.held:
            del self._ranges[position]
        else:
            position += 1
        self._offer(position, beyond, is_last=page.is_last)
        if page.is_last:
            last = page.objects[-1].key if page.objects else start
            self._ranges = [one for one in self._ranges if one.is_begun or one.after < last]

    def _record(self, item: Range, objects: Objects, *, is_last: bool) -> Objects:
        """Add the objects up to the end of a range; returns those beyond."""
        cut = len(objects) if item.end is None else bisect_right(objects, item.end, key=lambda found: found.key)
        own, beyond = objects[:cut], objects[cut:]
        item.is_begun, item.was_split = True, 0
        item.is_done = bool(beyond) or is_last
        if own:
            self._useful += 1
            self._known.observe(own)
            item.take(own, self._known.page_keys)
        if item.is_done:
            self._known.learn(item)
        return beyond

    def _offer(self, position: int, objects: Objects, *, is_last: bool) -> None:
        """Give what a page holds beyond its range to the next ranges that have not begun."""
        while objects and position < len(self._ranges) and not self._ranges[position].is_begun:
            item = self._ranges[position]
            objects = objects[bisect_right(objects, item.after, key=lambda found: found.key) :]
            if not objects:
                return
            objects = self._record(item, objects, is_last=is_last)
            if item.is_done and not item.pages:
                del self._ranges[position]
            else:
                position += 1

    def _split(self, item: Range, position: int, *, is_tail: bool) -> None:
        """Split a range at folders, and inside the folder whose entries fill its last page at names."""
        left = self._known.pages_left(item)
        if left < 2 * RANGE_PAGES and item.folders is not None and item.folders.left == 1 and not is_tail:
            return
        if levels := item.levels:
            self._split_at_folders(item, position, levels)
        borders = self._known.borders_ahead(item, left, RANGE_PAGES if is_tail else 2 * RANGE_PAGES)
        self._ranges[position + 1 : position + 1] = item.cut(borders)

    def _split_at_folders(self, item: Range, position: int, levels: list[str]) -> None:
        """List the folders after the last key, in the range's folder and those on the way to it; one request each."""
        outer = [item.folder, *levels[:-1]]
        end, parts = item.end, list[Range]()
        for folder, inner in zip(outer, levels, strict=True):  # from the outermost level inwards
            if end is None or end > end_of(inner):
                part = Range(end_of(inner), end, folder, item.folders, is_begun=True, is_busy=True)
                parts.insert(0, part)
                end = end_of(inner)
        item.folder, item.end = levels[-1], end
        if item.folders is not None:
            item.folders.left += len(parts)
        self._ranges[position + 1 : position + 1] = parts
        for part in parts:
            self._list_folders(part)

    def _list_folders(self, part: Range) -> None:
        self._submit(
            lambda: self._pages.folder(part.folder, part.after), lambda listing: self._on_folders(part, listing)
        )

    def _on_folders(self, part: Range, listing: DirListing) -> None:
        """Replace a part by a range for each of its folders, and the objects between them, which are known."""
        found: list[Range] = []
        depth = part.folder.count("/")
        starts = {f"{part.folder}{name}/": part.folder for name in listing.folders}
        objects = {item.key: item for item in listing.objects}
        for key in sorted((*starts, *objects)):
            if key <= part.after or (part.end is not None and key > part.end):
                continue
            if key in starts:
                end = end_of(key) if part.end is None else min(end_of(key), part.end)
                found.append(Range(before(key), end, part.folder, Folders(depth, part.folders), is_whole=True))
            elif found and found[-1].is_done:
                found[-1].pages[0] += (objects[key],)
            else:
                found.append(Range(key, key, part.folder, pages=deque([(objects[key],)]), is_begun=True, is_done=True))
        rest = listing.next_key
        if rest is not None and (part.end is None or rest < part.end):
            found.append(Range(rest, part.end, part.folder, part.folders))
        self._useful += bool(listing.folders)
        if part.folders is not None:
            part.folders.left += sum(not item.is_done for item in found)
            part.folders.add(sum(len(item.pages[0]) for item in found if item.is_done))
        self._known.finish(part.folders)
        position = self._ranges.index(part)
        self._ranges[position : position + 1] = found
