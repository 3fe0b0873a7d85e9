"""Concurrent listings: order, completeness, skipped folders, bounded read-ahead."""

from __future__ import annotations

import datetime
import hashlib
import logging
import sys
import threading
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from job.errors import ConfigurationError
from job.storage.keys import ordered
from job.storage.listing.pages import Page
from job.storage.listing.parallel import PAGES_AHEAD, list_in_order
from tests.job.storage.buckets import Bucket, listed, stored, virtual_time

parts = st.text(alphabet="ab./0é\U0001f600", min_size=1, max_size=3)
keys = st.lists(st.lists(parts, min_size=1, max_size=4).map("/".join), max_size=60, unique=True)


@example(["/", "/0"], 1, None, "")  # a folder without a name
@given(keys, st.integers(1, 7), st.sampled_from([None, "a", "b/a"]), st.sampled_from(["", "a", "a/b", "zz"]))
def test_every_key_is_listed_once_in_order_for_any_page_size(
    names: list[str], page_size: int, skip: str | None, after: str
) -> None:
    bucket = Bucket(names, page_size)
    wanted = [name for name in bucket.names if ordered(name) > ordered(after)]
    if skip:
        wanted = [name for name in wanted if not name.startswith(f"{skip}/")]
    assert listed(bucket, skip=skip, after=after) == wanted


@given(keys, st.integers(1, 7))
def test_a_folder_has_only_its_own_keys(names: list[str], page_size: int) -> None:
    bucket = Bucket(names, page_size)
    assert listed(bucket, "a/") == [name for name in bucket.names if name.startswith("a/")]


def flat(keys: int) -> list[str]:
    return [f"{number:07d}.json" for number in range(keys)]


def tree(*widths: int) -> list[str]:
    """Keys in nested folders; the last width is that of the deepest folder's files."""
    found = [""]
    for width in widths[:-1]:
        found = [f"{folder}{number:03d}/" for folder in found for number in range(width)]
    return [f"{folder}{number:05d}.jpg" for folder in found for number in range(widths[-1])]


def digests(keys: int) -> list[str]:
    return [f"{hashlib.sha256(str(number).encode()).hexdigest()}.jpg" for number in range(keys)]


def dated(keys: int) -> list[str]:
    """Names with a date and a time: 100 images on every third day."""
    begin = datetime.date(2023, 1, 1)
    days = (begin + datetime.timedelta(days=3 * day) for day in range(keys // 100))
    return [f"{day:%Y%m%d}_{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}_cam.jpg"
            for day in days for second in range(30_000, 80_000, 500)]  # fmt: skip


SHAPES = {
    "flat": lambda: flat(50_000),
    "flat, digests": lambda: digests(50_000),
    "flat, half of the digits unused": lambda: [f"{number:014d}.jpg" for number in range(50_000)],
    "cameras of 20 pages": lambda: tree(25, 2_017),
    "small folders": lambda: tree(20, 50, 53),
    "tiny folders": lambda: tree(50, 200, 5),
    "single images in folders": lambda: tree(25_000, 2),
    "large folders": lambda: tree(4, 13_000),
    "deep": lambda: tree(4, 5, 4, 3, 253),
    "deep, one folder in each": lambda: [f"a/b/c/d/e/{key}" for key in flat(50_000)],
    "skewed": lambda: [*(f"a/{key}" for key in flat(40_000)), *(f"b{key}" for key in tree(100, 93))],
    "skewed, the last is large": lambda: [*tree(100, 93), *(f"z/{key}" for key in flat(40_000))],
    "skewed, geometric": lambda: [f"{level:02d}/{key}" for level in range(14) for key in flat(26_000 >> level)],
    "files beside folders": lambda: [*(f"{key}" for key in flat(15_000)), *(f"x{key}" for key in tree(25, 1_011)),
                                     *(f"y{key}" for key in flat(15_000))],
}  # fmt: skip
PAGE = 100
BOUND, SLACK = 1.3, 10.0
"""Wall time of a listing: 1.3 times that of all pages by 32 requests at a time, and 10 pages more."""


@pytest.mark.parametrize("shape", SHAPES)
def test_a_listing_of_any_shape_takes_a_32nd_of_the_time_of_its_pages(shape: str) -> None:
    bucket = Bucket(SHAPES[shape](), page_size=PAGE)
    with virtual_time(1.0) as clock:
        assert listed(bucket, skip="_sam3") == bucket.names
    pages, time_s = len(bucket.names) / PAGE, clock.now_s + 2  # the first page and the check of the store
    sys.stdout.write(
        f"{shape}: {pages:.0f} pages in the time of {time_s:.0f} (bound {BOUND * pages / 32 + SLACK:.0f}), "
        f"{bucket.pages} pages and {bucket.levels} folders requested, {bucket.most_held} pages held\n"
    )
    assert time_s <= BOUND * pages / 32 + SLACK
    assert clock.most_waiting <= 32 + 6, "a thread pool of 32 makes the requests; folders of each level are queued"
    assert bucket.pages + bucket.levels <= 1.5 * pages


def test_names_with_gaps_are_listed_many_at_a_time() -> None:
    bucket = Bucket(dated(20_000), page_size=PAGE)
    with virtual_time(1.0) as clock:
        assert listed(bucket) == bucket.names
    sys.stdout.write(f"{len(bucket.names) // PAGE} pages in the time of {clock.now_s:.0f}, {bucket.pages} requested\n")
    assert clock.now_s <= len(bucket.names) / PAGE / 8 + SLACK
    assert bucket.pages <= 4 * len(bucket.names) / PAGE


@pytest.mark.parametrize(("keys", "requests"), [(100, 1), (101, 6), (300, 12), (3_000, 60)])
def test_a_short_listing_takes_few_requests(keys: int, requests: int) -> None:
    bucket = Bucket(flat(keys), page_size=PAGE)
    with virtual_time(1.0):
        assert len(listed(bucket)) == keys
    assert bucket.pages + bucket.levels <= requests


@pytest.mark.parametrize("shape", ["flat", "cameras of 20 pages", "deep", "skewed, geometric"])
def test_a_slow_reader_holds_a_bounded_number_of_pages(shape: str) -> None:
    """All requests end before the reader takes the next key."""
    bucket = Bucket(SHAPES[shape](), page_size=PAGE)
    with virtual_time(1.0) as clock:
        for read, item in enumerate(list_in_order(bucket.requests(), "", skip=None, after="")):
            assert item.key == bucket.names[read]
            if read % PAGE == 0:
                clock.end_all()
    sys.stdout.write(f"{shape}: at most {bucket.most_held} of {len(bucket.names) // PAGE} pages held\n")
    assert bucket.most_held <= 2 * PAGES_AHEAD + 32


def test_the_reader_gets_keys_while_a_range_far_ahead_is_slow() -> None:
    names = tree(100, 100)
    bucket, slow = Bucket(names, page_size=10), threading.Event()

    def page(prefix: str, after: str) -> Page:
        if after.startswith("099/"):
            assert slow.wait(20)
        return bucket.page(prefix, after)

    requests = bucket.requests()
    requests.page = page
    reader = list_in_order(requests, "", skip=None, after="")
    for name in names[:5000]:
        assert next(reader).key == name
    slow.set()
    assert [item.key for item in reader] == names[5000:]


def test_closing_the_reader_ends_the_listing_threads() -> None:
    bucket = Bucket([f"{day}/{number:03d}" for day in range(9) for number in range(99)], page_size=5)
    reader = list_in_order(bucket.requests(), "", skip=None, after="")
    for _ in range(10):
        next(reader)
    reader.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("list") for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("list")]


def test_an_error_of_a_listing_thread_reaches_the_reader() -> None:
    bucket = Bucket([f"{day}/{number:03d}" for day in range(9) for number in range(99)], page_size=5)

    def page(prefix: str, after: str) -> Page:
        if after.startswith("7"):
            raise OSError("gone")
        return bucket.page(prefix, after)

    requests = bucket.requests()
    requests.page = page
    with pytest.raises(OSError, match="gone"):
        list(list_in_order(requests, "", skip=None, after=""))


class Forgetful(Bucket):
    """A store that ignores the key to start after: always, or for keys that do not exist."""

    def __init__(self, names: list[str], page_size: int, *, knows_its_keys: bool = False) -> None:
        super().__init__(names, page_size)
        self.knows_its_keys = knows_its_keys
        self.serial = 0

    def page(self, prefix: str, after: str) -> Page:
        knows = self.knows_its_keys and after in self.names
        return super().page(prefix, after if knows else "")

    def page_of_token(self, prefix: str, token: str) -> Page:
        self.serial += 1
        page = super().page(prefix, "")
        found = [item for item in map(stored, self.names) if item.key > token][: self.page_size]
        return Page(tuple(found), found[-1].key == self.names[-1], found[-1].key) if found else page


@pytest.mark.parametrize("knows_its_keys", [False, True])
def test_a_store_that_ignores_the_start_is_listed_page_by_page(
    caplog: pytest.LogCaptureFixture, knows_its_keys: bool
) -> None:
    bucket = Forgetful(tree(10, 30), 10, knows_its_keys=knows_its_keys)
    requests = bucket.requests()
    for _ in range(2):
        reader = list_in_order(requests, "", skip="003", after="001/00004.jpg")
        wanted = [name for name in bucket.names if name > "001/00004.jpg" and not name.startswith("003/")]
        assert [item.key for item in reader] == wanted
    assert bucket.serial == 2 * 30
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "one warning for a store"
    assert "bucket does not list in order after any key (StartAfter): listing page by page" in caplog.text


def test_a_store_that_loses_the_start_later_is_listed_page_by_page_from_there(caplog: pytest.LogCaptureFixture) -> None:
    bucket = Forgetful(tree(10, 30), 10)
    requests, honest = bucket.requests(), Bucket(bucket.names, 10)
    requests.page = lambda prefix, after: (honest if after < "005" else bucket).page(prefix, after)
    assert [item.key for item in list_in_order(requests, "", skip=None, after="")] == bucket.names
    assert requests.can_start_anywhere is False


def test_a_storage_that_lists_without_order_is_refused() -> None:
    requests = Bucket([], 1).requests()
    requests.page = requests.page_of_token = lambda prefix, after: Page((stored("b"), stored("a")), is_last=True)
    with pytest.raises(ConfigurationError, match="does not list in order"):
        list(list_in_order(requests, "", skip=None, after=""))
