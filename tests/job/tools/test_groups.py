"""The merge of two listings: every group once, ascending, complete, with few groups open."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from job.storage.keys import ordered, split_key
from job.storage.store import StoredObject
from job.tools.groups import groups

stems = st.text(alphabet="ab./-é", min_size=1, max_size=4)
keys = st.sets(st.tuples(stems, st.sampled_from([".json", ".jpg", ".JPG", ".npz", ".txt"])).map("".join), max_size=30)


def stored(names: set[str]) -> list[StoredObject]:
    return [StoredObject(name, 1, 0.0) for name in sorted(names, key=ordered)]


@given(keys, keys)
def test_every_key_is_in_its_group_and_groups_ascend(inputs: set[str], outputs: set[str]) -> None:
    found = list(groups(stored(inputs), stored(outputs)))
    order = [ordered(group.json_key) for group in found]
    assert order == sorted(set(order))
    assert {f.stem + suffix for f in found for suffix in f.input_sizes} == {key for key in inputs if split_key(key)[1]}
    assert {f.stem + suffix for f in found for suffix in f.output_sizes} == {
        key for key in outputs if split_key(key)[1]
    }


def listing(count: int, suffixes: tuple[str, ...]) -> Iterator[StoredObject]:
    for number in range(count):
        for suffix in suffixes:
            yield StoredObject(f"day{number // 1000:04d}/{number:09d}{suffix}", 1, 0.0)


def peak(count: int) -> int:
    tracemalloc.start()
    merged = groups(listing(count, (".jpg", ".json")), listing(count, (".jpg", ".json", ".npz")))
    assert sum(1 for _ in merged) == count
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_listings() -> None:
    peak(100)
    few, many = peak(1_000), peak(20_000)
    assert many < few + 100_000, f"{few} for 1,000, {many} for 20,000"
