from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.plan.pairing import ListedInput, PairingCounts, pair_listings
from job.storage.keys import IMAGE_SUFFIXES, ordered

STEMS = [
    "a",
    "a.b",
    "a.k",
    "a.j",
    "a.z",
    "a.jpg",
    "a.json",
    "a-1",
    "a0",
    "a/b",
    "a.b/c",
    "A",
    "ab",
    "ä",
    "b.npz",
    ".x",
    "a.",
]
"""Prefixes of one another, characters that sort before and after the dot, and suffixes inside stems."""
SUFFIXES = [".json", ".npz", *IMAGE_SUFFIXES, ".png", ".JSON", ""]

listings = st.sets(st.builds(str.__add__, st.sampled_from(STEMS), st.sampled_from(SUFFIXES)), max_size=30).map(
    lambda keys: sorted(keys, key=ordered)
)


def paired(
    inputs: list[str], outputs: list[str], needs_image: bool = True, takes_images: bool = False
) -> tuple[list[ListedInput], PairingCounts]:
    counts = PairingCounts()
    listed = pair_listings(inputs, outputs, needs_image=needs_image, counts=counts, takes_images=takes_images)
    return list(listed), counts


def split(key: str) -> tuple[str, str] | None:
    """Stem and suffix of a file of an image; a name that is only a suffix (`.json`) has no stem."""
    for suffix in (".json", ".npz", *IMAGE_SUFFIXES):
        if key.endswith(suffix) and key.rpartition("/")[2] != suffix:
            return key.removesuffix(suffix), suffix
    return None


def expected(inputs: list[str], outputs: list[str], needs_image: bool) -> tuple[list[ListedInput], set[str]]:
    """The result by a lookup of every name, and the images without a JSON."""
    given_, there = set(inputs), set(outputs)
    found = []
    for key in inputs:
        part = split(key)
        if part is None or part[1] != ".json":
            continue
        stem = part[0]
        image = next((stem + suffix for suffix in IMAGE_SUFFIXES if stem + suffix in given_), None)
        has_outputs = {stem + ".json", stem + ".npz"} <= there
        is_done = has_outputs and (not needs_image or image in there)
        found.append(ListedInput(json=key, image=image, is_done=is_done, has_prior=key in there))
    parts = [part for key in inputs if (part := split(key)) is not None]
    unpaired = {stem + suffix for stem, suffix in parts if suffix in IMAGE_SUFFIXES and stem + ".json" not in given_}
    return found, unpaired


@settings(deadline=None, max_examples=400)
@given(listings, listings, st.booleans())
def test_the_merge_equals_a_lookup_of_every_name(inputs: list[str], outputs: list[str], needs_image: bool) -> None:
    listed, counts = paired(inputs, outputs, needs_image)
    found, unpaired = expected(inputs, outputs, needs_image)
    assert listed == found
    assert counts.images_without_json == len(unpaired)


@settings(deadline=None, max_examples=400)
@given(listings, listings, st.booleans())
def test_images_without_a_json_are_inputs_in_the_place_of_their_json(
    inputs: list[str], outputs: list[str], needs_image: bool
) -> None:
    listed, counts = paired(inputs, outputs, needs_image, takes_images=True)
    _, unpaired = expected(inputs, outputs, needs_image)
    created = {key.rpartition(".")[0] + ".json" for key in unpaired}
    found, _ = expected(sorted({*inputs, *created}, key=ordered), outputs, needs_image)
    assert listed == [replace(one, has_json=one.json not in created) for one in found]
    assert counts.images_without_json == 0


@settings(deadline=None, max_examples=100)
@given(listings, st.booleans())
def test_a_folder_merged_with_itself_is_done_where_there_are_masks(keys: list[str], needs_image: bool) -> None:
    listed, _ = paired(keys, keys, needs_image)
    for one in listed:
        has_mask = one.json.removesuffix(".json") + ".npz" in keys
        assert one.has_prior
        assert one.is_done == (has_mask and (one.image is not None or not needs_image))


@pytest.mark.parametrize(
    ("keys", "image"),
    [
        pytest.param(["x.JPEG", "x.JPG", "x.jpeg", "x.jpg", "x.json"], "x.jpg", id="all four"),
        pytest.param(["x.JPEG", "x.JPG", "x.jpeg", "x.json"], "x.jpeg", id="no jpg"),
        pytest.param(["x.JPEG", "x.JPG", "x.json"], "x.JPG", id="upper case"),
        pytest.param(["x.JPEG", "x.json"], "x.JPEG", id="the last"),
        pytest.param(["x.Jpg", "x.json", "x.png"], None, id="none of the four"),
    ],
)
def test_the_first_image_in_order_of_preference_is_the_image(keys: list[str], image: str | None) -> None:
    listed, counts = paired(keys, [])
    assert [one.image for one in listed] == [image]
    assert counts.images_without_json == 0


@pytest.mark.parametrize(
    ("outputs", "needs_image", "is_done", "has_prior"),
    [
        pytest.param(["x.jpg", "x.json", "x.npz"], True, True, True, id="all present"),
        pytest.param(["x.json", "x.npz"], True, False, True, id="image missing"),
        pytest.param(["x.json", "x.npz"], False, True, True, id="image not needed"),
        pytest.param(["x.JPG", "x.json", "x.npz"], True, False, True, id="another image"),
        pytest.param(["x.jpg", "x.npz"], True, False, False, id="JSON missing"),
        pytest.param(["x.jpg", "x.json"], True, False, True, id="mask missing"),
        pytest.param(["x.jpg", "x.json", "x.k.json", "x.npz"], True, True, True, id="another group between"),
        pytest.param([], True, False, False, id="none present"),
    ],
)
def test_is_done_and_has_prior(outputs: list[str], needs_image: bool, is_done: bool, has_prior: bool) -> None:
    listed, _ = paired(["x.jpg", "x.json"], outputs, needs_image)
    assert listed == [ListedInput(json="x.json", image="x.jpg", is_done=is_done, has_prior=has_prior)]


def test_an_input_without_an_image_is_listed() -> None:
    listed, _ = paired(["x.json"], [])
    assert listed == [ListedInput(json="x.json", image=None, is_done=False, has_prior=False)]


def test_all_images_without_a_json_are_counted() -> None:
    listed, counts = paired([f"{i:03}.jpg" for i in range(50)], [])
    assert listed == []
    assert counts.images_without_json == 50


def test_images_of_one_name_beyond_the_first_are_counted() -> None:
    listed, counts = paired(["a.jpeg", "a.jpg", "a.json", "b.JPG", "b.jpeg", "b.jpg", "c.jpg", "c.json", "d.json"], [])
    assert [one.image for one in listed] == ["a.jpg", "c.jpg", None]
    assert (counts.unused_images, counts.images_without_json) == (1, 3)


def test_listings_are_read_no_further_than_needed() -> None:
    """The first input is yielded before the rest is listed, so memory does not grow with the folder."""
    read: list[str] = []

    def keys(*suffixes: str) -> Iterator[str]:
        for i in range(1000):
            for suffix in suffixes:
                read.append(f"{i:04}{suffix}")
                yield read[-1]

    listed = pair_listings(
        keys(".jpg", ".json"), keys(".jpg", ".json", ".npz"), needs_image=True, counts=PairingCounts()
    )
    assert next(listed).is_done
    assert len(read) < 10
    assert sum(one.is_done for one in listed) == 999
