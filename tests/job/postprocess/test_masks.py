from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from job.postprocess import masks
from job.postprocess.masks import CroppedMask, crop_mask, intersection_area, iou, logits_to_mask, reorient
from tests import reference

Bools = NDArray[np.bool_]


def full(mask: CroppedMask | None, size_hw: tuple[int, int]) -> Bools:
    """The whole raster of a mask."""
    raster = np.zeros(size_hw, np.bool_)
    if mask is not None:
        x0, y0, x1, y1 = mask.box_xyxy
        raster[y0:y1, x0:x1] = mask.crop()
        assert mask.size_hw == size_hw
    return raster


@st.composite
def rasters(draw: st.DrawFn, largest: int = 40) -> Bools:
    size = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    share = draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]))
    raster: Bools = np.random.default_rng(draw(st.integers(0, 1 << 30))).random(size) < share
    return raster


@st.composite
def logits_and_sizes(draw: st.DrawFn) -> tuple[NDArray[np.float32], tuple[int, int]]:
    grid = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    size = draw(st.tuples(st.integers(1, 150), st.integers(1, 150)))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    shift = draw(st.sampled_from([-3.0, -1.0, 0.0, 1.0, 3.0]))
    return (random.normal(size=grid) + shift).astype(np.float32), size


# --- cropping ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(rasters(), st.integers(0, 9), st.integers(0, 9))
def test_a_cropped_mask_has_the_pixels_area_and_tight_box_of_its_raster(raster: Bools, right: int, down: int) -> None:
    whole = np.pad(raster, ((down, 3), (right, 3)))
    mask = crop_mask(raster, (right, down), whole.shape)
    assert np.array_equal(full(mask, whole.shape), whole)
    assert (mask is None) == (not whole.any())
    if mask is not None:
        assert mask.area == whole.sum()
        assert mask.box_xyxy == reference.box_of(whole)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 16, 17, 33])
def test_rows_are_packed_eight_pixels_a_byte(width: int) -> None:
    mask = crop_mask(np.ones((3, width), np.bool_), (2, 1), (5, width + 4))
    assert mask is not None
    assert mask.bits.shape == (3, -(-width // 8))
    assert mask.bits.dtype == np.uint8
    assert mask.area == 3 * width
    assert mask.crop().all()


def test_the_first_pixel_is_the_highest_bit() -> None:
    row = np.array([[True, False, False, False, False, False, False, True, False, True]])
    mask = crop_mask(row, (0, 0), (1, 10))
    assert mask is not None
    assert mask.bits.tolist() == [[0b10000001, 0b01000000]]


@pytest.mark.parametrize(
    ("box", "bits_shape"),
    [
        pytest.param((0, 0, 11, 2), (2, 2), id="wider than the raster"),
        pytest.param((0, 0, 2, 11), (11, 1), id="higher than the raster"),
        pytest.param((-1, 0, 2, 2), (2, 1), id="left of the raster"),
        pytest.param((3, 3, 3, 5), (2, 0), id="no width"),
        pytest.param((0, 0, 9, 2), (2, 1), id="too few bytes in a row"),
        pytest.param((0, 0, 8, 2), (3, 1), id="too many rows"),
    ],
)
def test_bits_of_another_size_than_the_box_are_refused(box: Any, bits_shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"does not lie in|do not fill"):
        CroppedMask((10, 10), box, np.zeros(bits_shape, np.uint8))


@settings(deadline=None)
@given(rasters(), st.data())
def test_a_window_is_that_part_of_the_raster(raster: Bools, data: st.DataObject) -> None:
    mask = crop_mask(raster, (0, 0), raster.shape)
    if mask is None:
        return
    x0, y0, x1, y1 = mask.box_xyxy
    left, right = sorted((data.draw(st.integers(x0, x1)), data.draw(st.integers(x0, x1))))
    top, bottom = sorted((data.draw(st.integers(y0, y1)), data.draw(st.integers(y0, y1))))
    assert np.array_equal(mask.window((left, top, right, bottom)), raster[top:bottom, left:right])


@settings(deadline=None)
@given(rasters(), st.integers(0, 1 << 30), st.sampled_from([0.02, 0.5]))
def test_the_intersection_is_counted_as_in_whole_rasters(a: Bools, seed: int, share: float) -> None:
    b = np.random.default_rng(seed).random(a.shape) < share
    one, other = crop_mask(a, (0, 0), a.shape), crop_mask(b, (0, 0), b.shape)
    if one is not None and other is not None:
        assert intersection_area(one, other) == intersection_area(other, one) == (a & b).sum()
        assert iou(one, other) == iou(other, one) == float(reference.iou(a, b))


def test_masks_that_touch_share_nothing() -> None:
    size, block = (10, 10), np.ones((3, 3), np.bool_)
    a, right, below = (crop_mask(block, origin, size) for origin in ((0, 0), (3, 0), (0, 3)))
    assert a is not None
    assert right is not None
    assert below is not None
    assert intersection_area(a, right) == intersection_area(a, below) == 0


# --- resizing ----------------------------------------------------------------------------------------------------


@pytest.mark.torch
@settings(deadline=None)
@given(logits_and_sizes())
def test_a_mask_is_where_torch_resizes_the_logits_to_more_than_zero(given_: tuple[Any, tuple[int, int]]) -> None:
    """Equal but where torch's value is zero up to rounding.

    torch without vector instructions gave the same signs throughout. Its AVX2 and AVX-512 kernels fuse a
    multiplication and an addition where the pixel's position is computed. Of 12 million random pixels, a third of them
    between logits that are whole numbers (many exact zeros), 121 signs differed from AVX-512, all in that third and
    none where torch's value was above 4e-6.
    """
    logits, size = given_
    expected = reference.resize(logits, size)
    differs = full(logits_to_mask(logits, size), size) != (expected > 0)
    assert (np.abs(expected[differs]) < 2e-5).all()
    assert differs.sum() <= 1


@pytest.mark.torch
@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (288, 288), (100, 80), (1, 1), (3, 2000)], ids=str)
def test_the_models_own_grid_is_resized_as_by_torch(size: tuple[int, int]) -> None:
    y, x = np.mgrid[:288, :288]
    noise = np.random.default_rng(5).normal(size=(288, 288)) * 0.3
    logits = (8 - np.hypot(y - 140.3, (x - 150.7) * 0.7) / 8 + noise).astype(np.float32)
    assert np.array_equal(full(logits_to_mask(logits, size), size), reference.resize(logits, size) > 0)


@pytest.mark.parametrize("values_at_once", [1, 50, 1000], ids="{} values".format)
def test_rows_in_chunks_make_the_same_mask(values_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(3).normal(size=(20, 30)).astype(np.float32)
    whole = logits_to_mask(logits, (77, 101))
    monkeypatch.setattr(masks, "_CHUNK_VALUES", values_at_once)
    assert np.array_equal(full(logits_to_mask(logits, (77, 101)), (77, 101)), full(whole, (77, 101)))


@pytest.mark.parametrize(
    ("logits", "size"),
    [
        pytest.param(np.full((5, 6), -1.0), (50, 60), id="all outside"),
        pytest.param(np.zeros((5, 6)), (50, 60), id="zero is outside"),
        pytest.param(np.pad(np.ones((1, 1)), 20, constant_values=-9.0), (2, 2), id="between the pixels"),
        pytest.param(np.pad(np.ones((1, 1)), 20, constant_values=-9.0), (40, 40), id="outweighed by its neighbours"),
    ],
)
def test_logits_without_a_positive_pixel_are_no_mask(logits: NDArray[np.float64], size: tuple[int, int]) -> None:
    assert logits_to_mask(logits.astype(np.float32), size) is None


def test_a_pixel_of_exactly_zero_is_outside_among_positive_ones() -> None:
    logits = np.array([[1, 0, 2], [0, 3, 0]], np.float32)
    assert np.array_equal(full(logits_to_mask(logits, (2, 3)), (2, 3)), logits > 0)


def test_positive_logits_are_the_whole_raster() -> None:
    mask = logits_to_mask(np.ones((4, 4), np.float32), (7, 13))
    assert mask is not None
    assert mask.box_xyxy == (0, 0, 13, 7)
    assert mask.area == 7 * 13


# --- turning back ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(rasters(), st.integers(1, 8))
def test_reorient_turns_as_pillow_does(raster: Bools, orientation: int) -> None:
    mask = crop_mask(raster, (0, 0), raster.shape)
    if mask is None:
        return
    turned = reference.turn_back(raster.astype(np.uint8), orientation).astype(np.bool_)
    result = reorient(mask, orientation)
    assert np.array_equal(full(result, turned.shape), turned)
    assert result.box_xyxy == reference.box_of(turned)
    assert result.area == mask.area
