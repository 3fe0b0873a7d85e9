from __future__ import annotations

import numpy as np
import pytest

from job.postprocess.painting import keep_highest, paint, visible_areas
from tests.job.postprocess.instances import instance, pixels, rectangles

SIZE = (40, 60)


def scored(*scores: float) -> list[int]:
    """Numbers of those that stay when three may."""
    found = [instance("car", rectangles((0, 0, 1, 1)), query=i, score=score) for i, score in enumerate(scores)]
    return [one.query for one in keep_highest(found, 3)]


def test_mask_is_background_when_nothing_is_found() -> None:
    painting = paint([], SIZE)
    assert painting.mask.shape == SIZE
    assert painting.mask.dtype == np.uint8
    assert not painting.mask.any()
    assert (painting.values, painting.visible_areas) == ((), ())


def test_one_instance_is_255() -> None:
    painting = paint([instance("car", rectangles((10, 5, 20, 9), size_hw=SIZE))], SIZE)
    assert painting.values == (255,)
    assert (painting.mask[5:9, 10:20] == 255).all()
    assert np.count_nonzero(painting.mask) == 40


def test_seven_instances_have_the_values_of_the_original() -> None:
    """Value by area, largest first; listed in the order of the instances."""
    widths = [3, 7, 1, 6, 2, 5, 4]
    found = [instance("car", rectangles((0, 2 * i, width, 2 * i + 1), size_hw=SIZE)) for i, width in enumerate(widths)]
    painting = paint(found, SIZE)
    assert painting.values == (180, 36, 252, 72, 216, 108, 144)
    assert [int(painting.mask[2 * i, 0]) for i in range(7)] == list(painting.values)


@pytest.mark.parametrize(("count", "step"), [(2, 127), (3, 85), (127, 2), (128, 1), (200, 1), (255, 1)])
def test_values_are_even_steps_and_of_equal_areas_the_earlier_is_lower(count: int, step: int) -> None:
    painting = paint(pixels(count), (200, 300))
    assert painting.values == tuple(step * rank for rank in range(1, count + 1))
    assert np.count_nonzero(painting.mask) == count
    assert painting.visible_areas == (1,) * count


def test_more_than_255_instances_are_refused() -> None:
    with pytest.raises(ValueError, match="256 instances do not fit into one byte: at most 255"):
        paint(pixels(256), (200, 300))


def test_small_instances_are_painted_over_large_ones() -> None:
    small, large = rectangles((10, 10, 12, 12), size_hw=SIZE), rectangles((0, 0, 30, 30), size_hw=SIZE)
    for found in ([small, large], [large, small]):
        painting = paint([instance("car", mask) for mask in found], SIZE)
        assert painting.values[found.index(small)] == 254
        assert (painting.mask[10:12, 10:12] == 254).all()
        assert np.count_nonzero(painting.mask == 127) == 900 - 4


def test_completely_covered_instances_are_counted() -> None:
    boxes = [(0, 0, 10, 10), (0, 0, 10, 5), (0, 5, 10, 9), (0, 9, 10, 10), (20, 20, 21, 21)]
    found = [instance("car", rectangles(box, size_hw=SIZE)) for box in boxes]
    painting = paint(found, SIZE)
    assert painting.visible_areas == (0, 50, 40, 10, 1)
    assert len(painting.values) == 5
    assert painting.values[0] not in painting.mask


def test_visible_areas_are_those_of_the_whole_mask_where_many_boxes_overlap() -> None:
    random = np.random.default_rng(3)
    corners = random.integers(0, 30, (60, 2))
    sizes = random.integers(1, 11, (60, 2))
    boxes = np.concatenate((corners, corners + sizes), axis=1)
    painting = paint([instance("car", rectangles(tuple(box), size_hw=SIZE)) for box in boxes.tolist()], SIZE)
    expected = np.zeros(SIZE, np.uint8)
    for value, i in sorted((value, i) for i, value in enumerate(painting.values)):
        x0, y0, x1, y1 = boxes[i]
        expected[y0:y1, x0:x1] = value
    assert np.array_equal(painting.mask, expected)
    assert painting.visible_areas == visible_areas(expected, painting.values)


@pytest.mark.parametrize(("values", "areas"), [((), ()), ((7, 9), (1, 2)), ((7, 8, 9), (1, 0, 2)), ((255, 10), (0, 0))])
def test_visible_areas_count_the_pixels_of_all_rows(values: tuple[int, ...], areas: tuple[int, ...]) -> None:
    mask = np.zeros((1000, 3), np.uint8)
    mask[0, 0], mask[63, 0], mask[999, 2] = 7, 9, 9
    assert visible_areas(mask, values) == areas


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param((0.5, 0.6), [0, 1], id="fewer"),
        pytest.param((0.5, 0.6, 0.7), [0, 1, 2], id="as many"),
        pytest.param((0.5, 0.9, 0.7, 0.8), [1, 2, 3], id="the lowest goes, the order stays"),
        pytest.param((0.9, 0.5, 0.5, 0.8, 0.5), [0, 1, 3], id="of equal ones the earlier stays"),
        pytest.param((0.5, 0.5, 0.5, 0.5), [0, 1, 2], id="all equal"),
    ],
)
def test_the_highest_scores_are_kept(scores: tuple[float, ...], expected: list[int]) -> None:
    assert scored(*scores) == expected


@pytest.mark.parametrize(("count", "kept"), [(254, 254), (255, 255), (256, 255), (300, 255)])
def test_255_instances_are_kept_by_default(count: int, kept: int) -> None:
    assert [one.query for one in keep_highest(pixels(count))] == list(range(kept))
