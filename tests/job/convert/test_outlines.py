"""Outlines cover exactly their mask with its holes filled; simplified and joined ones nearly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from job.convert.outlines import EXACT_CORNERS, inset, join_parts, outlines, simplify
from job.postprocess.masks import crop_mask
from tests.job.convert.test_formats import filled

MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def parts_of(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    cropped = crop_mask(mask, (0, 0), (mask.shape[0], mask.shape[1]))
    return [] if cropped is None else outlines(cropped)


def draw(parts: list[NDArray[np.int64]], size_hw: tuple[int, ...]) -> NDArray[np.bool_]:
    if not parts:
        return np.zeros(size_hw, np.bool_)
    rles = coco_mask.frPyObjects([part.ravel().tolist() for part in parts], *size_hw)
    return np.asarray(coco_mask.decode(coco_mask.merge(rles))).astype(bool)


@given(MASKS)
def test_outlines_are_exact(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(draw(parts_of(mask), mask.shape), filled(mask))


@given(MASKS)
def test_only_corners_are_points(mask: NDArray[np.bool_]) -> None:
    for part in parts_of(mask):
        steps = np.diff(np.concatenate((part, part[:1])), axis=0)
        assert ((steps == 0).sum(axis=1) == 1).all(), "edges are horizontal or vertical"
        assert (np.abs(np.sign(steps) - np.sign(np.roll(steps, 1, axis=0))).sum(axis=1) == 2).all(), (
            "no point is straight"
        )


@pytest.mark.parametrize(
    ("mask", "parts"),
    [
        ([[1, 0], [0, 1]], 1),
        ([[0, 1], [1, 0]], 1),
        ([[1, 0, 1]], 2),
        ([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], 2),
    ],
    ids=["falling", "rising", "apart", "inside a hole"],
)
def test_pixels_that_touch_at_a_corner_are_one_part(mask: list[list[int]], parts: int) -> None:
    assert len(parts_of(np.array(mask, bool))) == parts


def wavy(size: int) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:size, :size] - size / 2
    angle = np.arctan2(rows, columns)
    return np.asarray(np.hypot(rows, columns) < size * (0.35 + 0.08 * np.sin(7 * angle)))


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_long_outline_is_simplified_and_stays_close() -> None:
    mask = wavy(400)
    (exact,) = parts_of(mask)
    simple = simplify(exact)
    assert len(exact) > EXACT_CORNERS
    assert len(simple) < len(exact) / 2
    assert iou(draw([simple], mask.shape), mask) > 0.985


def test_a_short_outline_is_exact() -> None:
    (exact,) = parts_of(wavy(20))
    assert simplify(exact) is exact


def test_joined_parts_are_one_polygon_that_covers_them() -> None:
    mask = np.zeros((60, 90), np.bool_)
    mask[5:20, 5:20] = mask[30:50, 12:30] = mask[10:16, 50:80] = mask[50:58, 78:88] = True
    parts = parts_of(mask)
    joined = join_parts(parts)
    assert {tuple(point) for point in joined.tolist()} == {tuple(point) for part in parts for point in part.tolist()}
    assert iou(draw([joined], mask.shape), mask) > 0.9
    x, y = joined.T
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    assert area == mask.sum(), "the lines between the parts have no area"


def test_a_part_that_holds_fewer_pixels_than_the_line_to_it_is_left_out() -> None:
    mask = np.zeros((40, 200), np.bool_)
    mask[5:25, 5:25] = True
    alone = join_parts(parts_of(mask))
    mask[30:32, 190:192] = True
    assert np.array_equal(join_parts(parts_of(mask)), alone)
    mask[5:25, 27:28] = True
    assert len(join_parts(parts_of(mask))) > len(alone)


@given(MASKS)
def test_an_inset_outline_is_inside_and_keeps_its_pixels(mask: NDArray[np.bool_]) -> None:
    for part in parts_of(mask):
        moved = inset(part, 0.05)
        x, y = moved.T
        area = float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        exact = float(part[:, 0] @ np.roll(part[:, 1], -1) - part[:, 1] @ np.roll(part[:, 0], -1)) / 2
        edges = np.abs(np.diff(np.concatenate((part, part[:1])), axis=0)).sum()
        assert area == pytest.approx(exact - 0.05 * edges, abs=0.05 * 0.05 * 4 * len(part))
        assert np.abs(moved - part).max() == pytest.approx(0.05)
