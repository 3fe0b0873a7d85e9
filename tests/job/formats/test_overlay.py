from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from job.formats.overlay import (
    CLASS_COLOURS,
    OTHER_COLOURS,
    OverlayEncoding,
    OverlayLabel,
    draw_overlay,
    encode_overlay,
)
from job.postprocess.annotate import Annotation
from job.postprocess.instances import Instance
from job.postprocess.masks import crop_mask, reorient
from job.postprocess.orientation import turn_upright
from job.postprocess.painting import paint
from job.rules.rules import rules_of_prompts

STORED_TO_UPRIGHT: dict[int, Callable[[Any], Any]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].T,
    8: lambda stored: np.rot90(stored),
}
"""By EXIF orientation, from its definition (CIPA DC-008, tag 274)."""

Box = tuple[int, int, int, int]


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (100, 100, 100))


def mask_of(size_hw: tuple[int, int], *boxes_xyxy: Box) -> NDArray[np.uint8]:
    """Rectangles of the values 1, 2, ..., later ones over earlier ones."""
    mask = np.zeros(size_hw, np.uint8)
    for value, (x0, y0, x1, y1) in enumerate(boxes_xyxy, start=1):
        mask[y0:y1, x0:x1] = value
    return mask


def label(value: int = 1, class_name: str = "car", score: float | None = 0.87) -> OverlayLabel:
    return OverlayLabel(class_name, score, value)


def draw(size_wh: tuple[int, int], boxes_xyxy: list[Box], labels: list[OverlayLabel]) -> NDArray[np.uint8]:
    width, height = size_wh
    return np.asarray(draw_overlay(grey(width, height), mask_of((height, width), *boxes_xyxy), labels))


def ink_of(pixels: NDArray[np.uint8]) -> int:
    """Pixels of white letters: nothing else of a car on grey has so much red."""
    return int((pixels[..., 0] > 150).sum())


def test_an_instance_has_a_semi_transparent_fill_and_a_contour() -> None:
    pixels = draw((400, 300), [(100, 100, 200, 200)], [label()])
    car = CLASS_COLOURS["car"]
    assert tuple(pixels[150, 150]) == tuple(int(0.6 * 100 + 0.4 * strength) for strength in car)
    assert {tuple(pixels[y, x]) for x, y in ((100, 150), (199, 150), (150, 199))} == {car}
    assert tuple(pixels[200, 150]) == (100, 100, 100)
    assert tuple(pixels[290, 390]) == (100, 100, 100)


def test_a_smaller_instance_over_a_larger_one_stays_visible() -> None:
    pixels = draw((400, 300), [(50, 50, 350, 250), (150, 150, 250, 200)], [label(1), label(2, "license_plate")])
    yellow = CLASS_COLOURS["license_plate"]
    assert tuple(pixels[175, 200]) == tuple(int(0.6 * 100 + 0.4 * strength) for strength in yellow)


def test_drawing_does_not_modify_its_arguments() -> None:
    picture, mask = grey(100, 100), mask_of((100, 100), (10, 10, 50, 50))
    before = np.array(picture), mask.copy()
    drawn = draw_overlay(picture, mask, [label()])
    assert drawn.size == picture.size
    assert (np.array(picture) == before[0]).all()
    assert (mask == before[1]).all()


def test_without_labels_the_image_is_unchanged() -> None:
    assert (draw((60, 40), [], []) == 100).all()


def test_an_instance_without_pixels_is_skipped() -> None:
    assert (draw((60, 40), [], [label(7)]) == 100).all()


def test_known_classes_have_fixed_colours_and_others_cycle() -> None:
    names = [*CLASS_COLOURS, "dog", "bus", "tree", "cat"]
    boxes = [(i * 100, 100, i * 100 + 50, 150) for i in range(len(names))]
    pixels = draw((100 * len(names), 200), boxes, [label(i, name) for i, name in enumerate(names, start=1)])
    contours = {name: tuple(pixels[149, x0]) for name, (x0, *_) in zip(names, boxes, strict=True)}
    assert {name: contours[name] for name in CLASS_COLOURS} == CLASS_COLOURS
    assert [contours[name] for name in ("bus", "cat", "dog", "tree")] == [*OTHER_COLOURS, OTHER_COLOURS[0]]
    assert len({*CLASS_COLOURS.values(), *OTHER_COLOURS}) == len(CLASS_COLOURS) + len(OTHER_COLOURS)


INK = ink_of(draw((400, 300), [(150, 150, 250, 200)], [label()]))


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((0, 0, 20, 20), id="upper left"),
        pytest.param((380, 0, 400, 20), id="upper right"),
        pytest.param((0, 280, 20, 300), id="lower left"),
        pytest.param((399, 299, 400, 300), id="one pixel, lower right"),
        pytest.param((0, 0, 400, 300), id="the whole picture"),
        pytest.param((190, 0, 210, 300), id="full height"),
    ],
)
def test_a_label_lies_inside_the_image(box: Box) -> None:
    assert INK > 50
    assert ink_of(draw((400, 300), [box], [label()])) == INK


@pytest.mark.parametrize(
    "boxes",
    [
        pytest.param([(100, 100, 200, 200), (100, 100, 200, 150)], id="one in the other"),
        pytest.param([(100, 100, 130, 200), (110, 100, 140, 200), (120, 100, 150, 200)], id="three in a row"),
        pytest.param([(0, 0, 30, 30), (10, 0, 40, 30)], id="in a corner"),
        pytest.param([(385 - 6 * i, 0, 397 - 6 * i, 12) for i in range(6)], id="six small ones in a corner"),
    ],
)
def test_labels_do_not_overlap(boxes: list[Box]) -> None:
    pixels = draw((400, 300), boxes, [label(i) for i in range(1, len(boxes) + 1)])
    assert ink_of(pixels) == INK * len(boxes)


def test_a_label_larger_than_the_image_is_no_error() -> None:
    assert draw((8, 6), [(0, 0, 8, 6)], [label()]).shape == (6, 8, 3)


def test_labels_and_contours_scale_with_the_image() -> None:
    small = draw((336, 224), [(100, 100, 200, 200)], [label()])
    large = draw((3840, 2160), [(1000, 1000, 2000, 2000)], [label()])
    assert ink_of(large) > 10 * ink_of(small)
    assert contour_width(small[150]) == 1
    assert contour_width(large[1500]) == 6


def contour_width(row: NDArray[np.uint8]) -> int:
    return int((row == CLASS_COLOURS["car"]).all(axis=1).sum()) // 2


def test_a_label_without_a_score_is_the_class_name() -> None:
    assert label(class_name="license_plate", score=None).text == "license plate"
    assert label(class_name="license_plate", score=0.867).text == "license plate 0.87"


@pytest.mark.parametrize("orientation", STORED_TO_UPRIGHT)
def test_a_stored_mask_is_turned_upright(orientation: int) -> None:
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (
        np.asarray(turn_upright(Image.fromarray(stored), orientation)) == STORED_TO_UPRIGHT[orientation](stored)
    ).all()


@pytest.mark.parametrize("orientation", STORED_TO_UPRIGHT)
def test_an_overlay_is_upright(orientation: int) -> None:
    upright = np.zeros((80, 120), np.bool_)
    upright[60:75, 10:30] = True
    mask = crop_mask(upright, (0, 0), upright.shape)
    assert mask is not None
    stored = reorient(mask, orientation)
    file = encode_overlay(jpeg(stored.size_hw, orientation), annotation_of(stored), OverlayEncoding("png"))
    drawn = Image.open(io.BytesIO(file))
    assert (drawn.format, drawn.mode, drawn.size) == ("PNG", "RGB", (120, 80))
    contour = (np.asarray(drawn) == CLASS_COLOURS["person"]).all(axis=2)
    assert contour[74, 10:30].all()
    assert contour[65:75, 29].all()
    assert not contour[75:].any()
    assert not contour[65:, 30:].any()


@pytest.mark.parametrize(
    ("encoding", "suffix", "expected"),
    [
        pytest.param(OverlayEncoding(), ".jpg", ("JPEG", (120, 80)), id="JPEG by default"),
        pytest.param(OverlayEncoding("webp"), ".webp", ("WEBP", (120, 80)), id="WebP"),
        pytest.param(OverlayEncoding("png"), ".png", ("PNG", (120, 80)), id="PNG"),
        pytest.param(OverlayEncoding("png", 60), ".png", ("PNG", (60, 40)), id="reduced"),
        pytest.param(OverlayEncoding("jpeg", 4000), ".jpg", ("JPEG", (120, 80)), id="never enlarged"),
    ],
)
def test_an_overlay_has_the_format_and_size_asked_for(
    encoding: OverlayEncoding, suffix: str, expected: tuple[str, tuple[int, int]]
) -> None:
    drawn = overlay_of_person((80, 120), encoding)
    assert encoding.suffix == suffix
    assert (drawn.format, drawn.size) == expected
    scale = drawn.width / 120
    tinted = np.asarray(drawn.convert("RGB"))[round(67 * scale), round(20 * scale)].astype(int)
    assert np.abs(tinted - [int(0.6 * 100 + 0.4 * strength) for strength in CLASS_COLOURS["person"]]).max() <= 12


def test_an_image_beyond_the_limit_of_webp_is_reduced_to_it() -> None:
    assert overlay_of_person((80, 20_000), OverlayEncoding("webp")).size == (16_383, 66)


def overlay_of_person(size_hw: tuple[int, int], encoding: OverlayEncoding) -> Image.Image:
    upright = np.zeros(size_hw, np.bool_)
    upright[60:75, 10:30] = True
    mask = crop_mask(upright, (0, 0), size_hw)
    assert mask is not None
    return Image.open(io.BytesIO(encode_overlay(jpeg(size_hw, 1), annotation_of(mask), encoding)))


def jpeg(size_hw: tuple[int, int], orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    grey(size_hw[1], size_hw[0]).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def annotation_of(mask: Any) -> Annotation:
    instance = Instance("person", 0.9, 0, mask)
    painting = paint([instance], mask.size_hw)
    return Annotation(
        rules=rules_of_prompts(("person",), 0.4),
        mask=painting.mask,
        instances=(instance,),
        values=painting.values,
        visible_areas=painting.visible_areas,
        parents=(None,),
        beyond_255=(),
    )
