"""Lists many keys in order, with concurrent requests; the store is checked before its keys are split into ranges."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import lt

from job.errors import ConfigurationError
from job.storage.store import StoredObject

logger = logging.getLogger(__name__)

LAST_CHARACTER = "\U0010ffff"
"""Sorts after every other character, in UTF-8 as well."""


@dataclass(frozen=True)
class Page:
    """A part of a listing.

    Attributes:
        objects: Ascending.
        is_last: Whether no object follows.
        token: Continues the listing where the storage ignores the key to start after; empty on the last page.
    """

    objects: tuple[StoredObject, ...]
    is_last: bool
    token: str = ""


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


@dataclass
class Pages:
    """The requests of a listing.

    Attributes:
        url: Of the store.
        page: Lists the next objects under a prefix, in all its folders, after a key.
        page_of_token: Lists the next objects under a prefix by the token of the page before; empty for the first.
        folder: Lists what is directly in a folder, after a key.
        can_start_anywhere: Whether listings start after any key, in order; None before it was checked.
    """

    url: str
    page: Callable[[str, str], Page]
    page_of_token: Callable[[str, str], Page]
    folder: Callable[[str, str], DirListing]
    can_start_anywhere: bool | None = field(default=None, init=False)

    def check_start(self, prefix: str, page: Page) -> bool:
        """Whether a listing after a key that does not exist begins with the next key; one request.

        Args:
            prefix: Prefix of the page.
            page: A page of at least two objects, in order.
        """
        keys = [item.key for item in page.objects]
        start = keys[len(keys) // 2][:-1]
        wanted = next(key for key in keys if key > start)
        found = self.page(prefix, start).objects
        return is_rising(found, start) and bool(found) and found[0].key == wanted


def is_rising(objects: tuple[StoredObject, ...], after: str) -> bool:
    """Whether keys rise, from one greater than `after` on."""
    keys = [item.key for item in objects]
    return not keys or (keys[0] > after and all(map(lt, keys, islice(keys, 1, None))))


def is_in(key: str, folder: str | None) -> bool:
    """Whether a key is in a folder; `folder` is without a slash at its end."""
    return folder is not None and key.startswith(f"{folder}/")


def list_one_by_one(pages: Pages, prefix: str, *, skip: str | None, after: str) -> Iterator[StoredObject]:
    """List page after page, from the first key on.

    Raises:
        ConfigurationError: The storage does not list in byte order.
    """
    token, previous, is_last = "", "", False
    while not is_last:
        page = pages.page_of_token(prefix, token)
        token, is_last = page.token, page.is_last
        for item in page.objects:
            if item.key < previous:
                raise ConfigurationError(
                    f"the storage does not list in order ({item.key!r} follows a greater key): use a general purpose "
                    "bucket"
                )
            previous = item.key
            if item.key > after and not is_in(item.key, skip):
                yield item
