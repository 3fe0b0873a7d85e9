from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.demo_model.scenes.drawing import Canvas
from export.demo_model.scenes.prompts import UNKNOWN_WORDS, WORDS
from export.demo_model.scenes.scenes import CLASS_NAMES, draw_scene, write_scenes

SEEDS = range(30)


def test_same_seed_and_size_give_the_same_scene() -> None:
    first, second = draw_scene(7, (320, 180)), draw_scene(7, (320, 180))
    assert first.image.tobytes() == second.image.tobytes()
    assert [(o.class_name, o.box_xyxy, o.is_passenger) for o in first.objects] == [
        (o.class_name, o.box_xyxy, o.is_passenger) for o in second.objects
    ]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.objects, second.objects, strict=True))


def test_other_seeds_give_other_scenes() -> None:
    assert len({draw_scene(seed, (160, 90)).image.tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("size_wh", [(640, 360), (300, 400)])
def test_scene_has_the_given_size(size_wh: tuple[int, int]) -> None:
    scene = draw_scene(1, size_wh)
    assert scene.image.size == size_wh
    assert scene.image.mode == "RGB"
    assert {found.mask.shape for found in scene.objects} == {size_wh[::-1]}


def test_boxes_are_tight_around_masks() -> None:
    for seed in SEEDS:
        for found in draw_scene(seed, (320, 180)).objects:
            x0, y0, x1, y1 = found.box_xyxy
            assert found.mask[y0:y1, x0:x1].sum() == found.mask.sum() > 0
            assert all(side.any() for side in (found.mask[y0], found.mask[y1 - 1]))
            assert all(side.any() for side in (found.mask[:, x0], found.mask[:, x1 - 1]))


def test_masks_of_outer_objects_do_not_overlap() -> None:
    for seed in SEEDS:
        standing = [
            found.mask
            for found in draw_scene(seed, (320, 180)).objects
            if found.class_name == "car" or (found.class_name == "person" and not found.is_passenger)
        ]
        assert not any((first & second).any() for first, second in combinations(standing, 2))


def test_every_class_and_passengers_occur_and_so_do_scenes_without_cars() -> None:
    scenes = [draw_scene(seed, (320, 180)) for seed in SEEDS]
    counts = Counter(found.class_name for scene in scenes for found in scene.objects)
    assert all(counts[name] >= 10 for name in CLASS_NAMES)
    assert sum(found.is_passenger for scene in scenes for found in scene.objects) >= 10
    assert any(all(found.class_name != "car" for found in scene.objects) for scene in scenes)


def test_only_people_are_passengers() -> None:
    assert {f.class_name for seed in SEEDS for f in draw_scene(seed, (320, 180)).objects if f.is_passenger} == {
        "person"
    }


def test_written_scenes_are_pairs_of_image_and_json(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    paths = write_scenes(folder, seed=3, count=3, sizes_wh=((64, 48), (80, 60)))
    assert [path.relative_to(folder).as_posix() for path in paths] == [
        "cen005/entry1/scene_00000.jpg", "cen005/exit1/scene_00001.jpg", "cen007/entry1/scene_00002.jpg",
    ]  # fmt: skip
    assert sorted(path.suffix for path in folder.rglob("*.*")) == [".jpg"] * 3 + [".json"] * 3
    for path, size_wh in zip(paths, ((64, 48), (80, 60), (64, 48)), strict=True):
        with Image.open(path) as picture:
            assert picture.size == size_wh
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert content["image"]["dimensions"] == {"width": size_wh[0], "height": size_wh[1]}
        garage, camera = path.relative_to(folder).parts[:2]
        assert content["source"] == {"source_type": "GVA", "camera": camera, "garage": garage}
        assert isinstance(content["image"]["timestamp_ms"], int)


def test_written_scenes_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    first, second = (
        [
            (file.relative_to(folder), file.read_bytes())
            for path in write_scenes(folder, seed=3, count=4, sizes_wh=((64, 48),))
            for file in (path, path.with_suffix(".json"))
        ]
        for folder in (tmp_path / "first", tmp_path / "second")
    )
    assert first == second


def test_canvas_refuses_more_objects_than_a_layer_has_numbers() -> None:
    canvas = Canvas((8, 8))
    numbers = [canvas.new_number() for _ in range(254)]
    assert len(set(numbers)) == 254
    with pytest.raises(ValueError, match="at most 254"):
        canvas.new_number()


def test_scenes_need_neither_torch_nor_sam3() -> None:
    code = "import sys, export.demo_model.scenes.scenes; sys.exit(bool({'torch', 'sam3', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_first_word_is_the_class_and_unknown_words_have_no_class() -> None:
    assert {name: words[0] for name, words in WORDS.items()} == {name: name for name in CLASS_NAMES}
    assert not set(UNKNOWN_WORDS) & {word for words in WORDS.values() for word in words}
