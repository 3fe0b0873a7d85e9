"""Plans over synthetic listings of millions of keys: `python -m tests.bench.scale plan|rerun|listing COUNT FOLDER`.

Prints one JSON object: seconds, peak resident bytes, and what was planned.
"""

from __future__ import annotations

import json
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.run.run import open_run
from job.storage.listing.pages import LAST_CHARACTER, DirListing, Page
from job.storage.local.store import LocalStore
from job.storage.object_store import ObjectStore
from job.storage.store import FolderTest, StoredObject, no_folder
from job.system.resources import peak_resident_bytes
from tests.fakes import spec_of

KEYS_IN_A_FOLDER = 10_000
PAGE_KEYS = 1000
PAGE_S = 0.02
"""What a page takes at least; S3 takes two to five times as long."""


class SyntheticDriver:
    """Pages of synthetic keys, as S3 lists them: 1,000 a page, each after some milliseconds."""

    def __init__(
        self, count: int, suffixes: tuple[str, ...], *, in_folder: int = KEYS_IN_A_FOLDER, page_s: float = PAGE_S
    ) -> None:
        self._count = count
        self._in_folder = in_folder
        self._page_s = page_s
        self._suffixes = suffixes

    url = "synthetic://bucket"

    def _refuse(self, *arguments: object) -> None:
        raise AssertionError(f"a listing was all that should be asked for: {arguments}")

    exists = fetch = fetch_range = stat = put = put_file = create = copy = delete = now_s = _refuse

    def page(self, prefix: str, after: str) -> Page:
        """See `PagedDriver.page`; a prefix is empty or a folder's."""
        time.sleep(self._page_s)
        first, last = self._range(prefix)
        start = max(first, bisect_right(range(last), after, key=self._key))
        stop = min(start + PAGE_KEYS, last)
        return Page(tuple(self._object(index) for index in range(start, stop)), is_last=stop == last)

    page_of_token = _refuse

    def list_dir(self, prefix: str, after: str) -> DirListing:
        """See `Driver.list_dir`."""
        time.sleep(self._page_s)
        if prefix:
            page = self.page(prefix, after)
            return DirListing(page.objects, (), None if page.is_last else page.objects[-1].key)
        folders = [f"camera{number:06d}" for number in range(-(-self._count // self._in_folder))]
        folders = [name for name in folders if f"{name}/" > after]
        next_key = None if len(folders) <= PAGE_KEYS else f"{folders[PAGE_KEYS - 1]}/{LAST_CHARACTER}"
        return DirListing((), tuple(folders[:PAGE_KEYS]), next_key)

    def _range(self, prefix: str) -> tuple[int, int]:
        width = len(self._suffixes)
        if not prefix:
            return 0, self._count * width
        folder = int(prefix.strip("/").removeprefix("camera"))
        return folder * self._in_folder * width, min((folder + 1) * self._in_folder, self._count) * width

    def _key(self, index: int) -> str:
        number, suffix = divmod(index, len(self._suffixes))
        return f"camera{number // self._in_folder:06d}/{number:010d}{self._suffixes[suffix]}"

    def _object(self, index: int) -> StoredObject:
        return StoredObject(self._key(index), 9, 1.7e9)


class SyntheticOutput(LocalStore):
    """A real folder for the run's own files; its outputs are synthetic, and none may be read."""

    def __init__(self, root: Path, outputs: ObjectStore) -> None:
        super().__init__(root, "scale")
        self._outputs = outputs

    def list(
        self, prefix: str = "", skip: str | None = None, after: str = "", is_optional: FolderTest = no_folder
    ) -> Iterator[StoredObject]:
        """The outputs where the run's own folder is to be left out."""
        return self._outputs.list(prefix, skip, after) if skip else super().list(prefix, skip, after)

    def read(self, key: str) -> bytes:
        """Only the run's own files."""
        if not key.startswith("_sam3/"):
            raise AssertionError(f"{key} was read")
        return super().read(key)


def main(what: str, count: int, folder: Path) -> dict[str, float]:
    """Do one of them."""
    done = count if what != "plan" else 0
    source = ObjectStore(SyntheticDriver(count, (".jpg", ".json")), "scale")  # type: ignore[arg-type]
    outputs = ObjectStore(SyntheticDriver(done, (".jpg", ".json", ".npz")), "scale")  # type: ignore[arg-type]
    target = SyntheticOutput(folder / "out", outputs)
    begun = time.monotonic()
    planned = listed = 0
    if what == "listing":
        listed = sum(1 for store in (source, target) for _ in store.list(skip="_sam3"))
    else:
        run = open_run(target, spec_of(Path("in")), name="r", is_date_given=False, process_id="scale")
        plan = make_plan(run, Selection(run, source), Sizing(num_indexes=1000))
        planned, listed = plan.inputs_planned, plan.inputs_listed
    peak = peak_resident_bytes()
    return {"seconds": time.monotonic() - begun, "peak": peak, "planned": planned, "listed": listed}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))) + "\n")
