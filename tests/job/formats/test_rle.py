from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.errors import InputError
from job.formats.rle import decode_counts, decode_rle, encode_rle
from job.postprocess.masks import CroppedMask, crop_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _cropped(mask: NDArray[np.bool_]) -> CroppedMask:
    height, width = mask.shape
    cropped = crop_mask(mask, (0, 0), (height, width))
    assert cropped is not None
    return cropped


def _drawn(*rows: str) -> NDArray[np.bool_]:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def _disc() -> NDArray[np.bool_]:
    y, x = np.mgrid[:40, :60]
    return np.asarray((y - 20) ** 2 + (x - 31) ** 2 < 200)


FROZEN = {
    "one pixel": (_drawn("#"), "01"),
    "last pixel": (_drawn("...", "..#"), "51"),
    "first pixel": (_drawn("#..", "..."), "015"),
    "row": (_drawn("....", "####"), "11100000"),
    "column": (_drawn(".#.", ".#."), "222"),
    "column joins the next": (_drawn(".##.", ".##.", ".#.."), "354"),
    "hole": (_drawn("####", "#..#", "####"), "041N02"),
    "run longer than 16": (_drawn(*["." * 30] * 10, "#" * 3 + "." * 27), ":1:000o8"),
    "disc": (_disc(), "ke03Q18J4M2N2N2N2N2O0O2O00000O2O0001N1000001N101N2N2N2N2N3L6HQa0"),
}
"""Made with pycocotools 2.0.11."""


@pytest.mark.parametrize("name", FROZEN)
def test_counts_are_those_of_pycocotools(name: str) -> None:
    mask, counts = FROZEN[name]
    height, width = mask.shape
    assert encode_rle(_cropped(mask), (height, width)) == counts
    assert np.array_equal(decode_rle(counts, (height, width)), mask)


masks = st.builds(
    lambda height, width, density, seed: np.random.default_rng(seed).random((height, width)) < density,
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([0.02, 0.3, 0.5, 0.9, 1.0]),
    st.integers(0, 1 << 30),
).filter(lambda mask: bool(mask.any()))


@settings(deadline=None)
@given(masks)
def test_every_mask_survives_and_equals_pycocotools(mask: NDArray[np.bool_]) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    height, width = mask.shape
    counts = encode_rle(_cropped(mask), (height, width))
    assert counts == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")
    assert np.array_equal(decode_rle(counts, (height, width)), mask)


@settings(deadline=None)
@given(masks, st.tuples(*[st.integers(0, 20)] * 4))
def test_a_mask_survives_anywhere_in_a_larger_raster(mask: NDArray[np.bool_], margins: tuple[int, ...]) -> None:
    top, bottom, left, right = margins
    full = np.pad(mask, ((top, bottom), (left, right)))
    height, width = full.shape
    assert np.array_equal(decode_rle(encode_rle(_cropped(full), (height, width)), (height, width)), full)


def test_a_large_raster_has_runs_of_many_characters() -> None:
    mask = CroppedMask((20_000, 20_000), (19_999, 19_999, 20_000, 20_000), np.array([[0x80]], np.uint8))
    assert encode_rle(mask, (20_000, 20_000)) == "ooP_m;1"
    assert decode_counts("UgX41iXhZm;0").tolist() == [140_005, 1, 399_859_993, 1]


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ("", "empty"),
        ("5", "do not fill a raster of 2 x 3"),
        ("511", "do not fill a raster of 2 x 3"),
        ("o", "incomplete"),
        ("5\x7f", "character"),
        ("5é", "ascii"),
        ("ooooooooo1", "more than 8 characters"),
        ("3O4", "do not fill"),
    ],
)
def test_damaged_counts_are_refused(counts: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        decode_rle(counts, (2, 3))
