from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.demo_model.scenes.dataset import Cache, CacheOptions, render_cache, sample_of, zoomed
from export.demo_model.scenes.scenes import CLASS_NAMES, Scene, draw_scene


def test_cache_holds_what_the_options_say(small_cache: Cache) -> None:
    assert len(small_cache) == 6
    for index in range(len(small_cache)):
        sample = small_cache[index]
        assert sample.image.shape == (112, 112, 3)
        assert sample.image.dtype == np.uint8
        assert sample.masks.shape == (len(sample.classes), 64, 64)
        assert sample.boxes_cxcywh.shape == (len(sample.classes), 4)
        assert ((sample.boxes_cxcywh > 0) & (sample.boxes_cxcywh <= 1)).all()


def test_complete_cache_is_reused_and_another_is_redrawn(tmp_path: Path) -> None:
    options = CacheOptions(scenes=2, image_side_px=28, mask_side_px=16, shards=1)
    render_cache(tmp_path, options)
    drawn = (tmp_path / "pictures_0.npy").stat().st_mtime_ns
    render_cache(tmp_path, options)
    assert (tmp_path / "pictures_0.npy").stat().st_mtime_ns == drawn
    assert len(render_cache(tmp_path, CacheOptions(scenes=3, image_side_px=28, mask_side_px=16, shards=1))) == 3


def test_sample_keeps_masks_and_boxes_together() -> None:
    scene = draw_scene(5, (320, 180))
    sample = sample_of(scene, 112, 64)
    assert [CLASS_NAMES[index] for index in sample.classes] == [found.class_name for found in scene.objects]
    for mask, (x, y, width, height) in zip(sample.masks, sample.boxes_cxcywh, strict=True):
        rows, columns = np.nonzero(mask)
        assert (columns.min() / 64, columns.max() / 64) == pytest.approx((x - width / 2, x + width / 2), abs=0.08)
        assert (rows.min() / 64, rows.max() / 64) == pytest.approx((y - height / 2, y + height / 2), abs=0.08)


def test_sample_of_an_empty_scene_has_no_objects() -> None:
    sample = sample_of(Scene(draw_scene(0, (64, 48)).image, ()), 28, 16)
    assert sample.masks.shape == (0, 16, 16)
    assert sample.boxes_cxcywh.shape == (0, 4)


@pytest.mark.parametrize("seed", range(8))
def test_zoomed_scene_is_a_part_of_the_scene(seed: int) -> None:
    scene = draw_scene(seed, (320, 180))
    part = zoomed(scene, np.random.default_rng(seed))
    width, height = part.image.size
    assert width <= 320
    assert height <= 180
    for found in part.objects:
        assert found.mask.shape == (height, width)
        assert 0 <= found.box_xyxy[0] < found.box_xyxy[2] <= width
        assert 0 <= found.box_xyxy[1] < found.box_xyxy[3] <= height


def test_scene_without_objects_is_not_zoomed() -> None:
    scene = Scene(draw_scene(0, (64, 48)).image, ())
    assert zoomed(scene, np.random.default_rng(0)) is scene
