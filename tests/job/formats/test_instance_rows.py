"""The laws of the rows: decoded, they are the masks before painting; painted, they are the mask of the NPZ."""

from __future__ import annotations

import io
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.errors import InputError
from job.formats import gva
from job.formats.gva import Origin
from job.formats.instance_rows import ImageFacts, paint_rows, rows_of
from job.formats.instance_table import InstanceRow, decode_part, encode_part, encode_rows
from job.formats.mask_npz import read_mask, to_npz
from job.formats.rle import decode_rle, encode_rle
from job.formats.visible_rows import VisibleImage, visible_rows
from job.model.session import Grounding
from job.postprocess.annotate import Annotation, annotate_grounding
from job.rules.rules import rules_of_prompts
from tests.job.postprocess.test_annotate import GARAGE, RULES, dots, grounding_of, groundings

if TYPE_CHECKING:
    from numpy.typing import NDArray

FACTS = ImageFacts("a/b.json", "a/b.jpg", Origin("entry1", "cen005", 1743414465802), 6)


def stored(annotation: Annotation) -> list[InstanceRow]:
    """The rows as a reader gets them."""
    return decode_part(encode_part(rows_of(annotation, FACTS)))


@settings(deadline=None, max_examples=150)
@given(groundings(), st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 8))
def test_rows_decode_to_whole_masks_and_paint_to_the_npz(
    grounding: Grounding, size: tuple[int, int], orientation: int
) -> None:
    annotation = annotate_grounding(grounding, RULES, size, orientation)
    rows = stored(annotation)
    assert np.array_equal(paint_rows(rows, annotation.size_hw), annotation.mask)
    named = [row for row in rows if row.class_name is not None]
    assert len(named) == len(annotation.instances)
    for row, instance in zip(named, annotation.instances, strict=True):
        assert row.rle is not None
        whole = decode_rle(row.rle.counts, row.rle.size)
        x0, y0, x1, y1 = instance.mask.box_xyxy
        assert np.array_equal(whole[y0:y1, x0:x1], instance.mask.crop())
        assert (int(whole.sum()), row.box) == (row.area, instance.mask.box_xyxy)
        assert row.visible_area == np.count_nonzero(annotation.mask == row.value)
        assert row.score == instance.score


def test_rows_of_a_scene() -> None:
    rows = stored(annotate_grounding(grounding_of(GARAGE, (40, 40)), RULES, (40, 40), 1))
    assert [(row.class_name, row.prompt, row.query, row.value, row.parent) for row in rows] == [
        ("car", "car", 4, 63, None),
        ("license_plate", "license plate", 2, 252, 63),
        ("person", "person", 3, 126, None),
        ("passenger", "person", 0, 189, 63),
    ]
    assert [(row.area, row.visible_area, row.box) for row in rows] == [
        (900, 853, (0, 0, 30, 30)), (12, 12, (10, 20, 16, 22)), (100, 100, (33, 5, 38, 25)), (35, 35, (5, 5, 10, 12)),
    ]  # fmt: skip
    assert [row.score for row in rows] == [float(np.float32(score)) for score in (0.9, 0.8, 0.6, 0.7)]
    assert {(row.json, row.image, row.size_hw, row.orientation) for row in rows} == {
        ("a/b.json", "a/b.jpg", (40, 40), 6)
    }
    assert {(row.camera, row.garage, row.timestamp_ms) for row in rows} == {("entry1", "cen005", 1743414465802)}


def test_instances_beyond_255_have_whole_masks_and_no_value() -> None:
    annotation = annotate_grounding(dots(280), RULES, (20, 20), 1)
    rows = stored(annotation)
    beyond = [row for row in rows if row.value is None]
    assert (len(rows), len(beyond)) == (280, 25)
    assert {row.visible_area for row in beyond} == {None}
    assert all(row.area and row.rle for row in beyond)
    assert np.array_equal(paint_rows(rows, annotation.size_hw), annotation.mask)


def test_an_image_without_instances_has_one_row() -> None:
    annotation = annotate_grounding(grounding_of([], (8, 8)), RULES, (4, 6), 6)
    assert stored(annotation) == [
        InstanceRow(
            json="a/b.json",
            image="a/b.jpg",
            width=4,
            height=6,
            orientation=6,
            camera="entry1",
            garage="cen005",
            timestamp_ms=1743414465802,
        )
    ]


def test_origin_of_other_types_is_left_out() -> None:
    raw = b'{"source": {"camera": 7, "garage": "\\ud800x"}, "image": {"timestamp_ms": 9223372036854775808}}'
    assert gva.origin_of(gva.parse(raw)) == Origin(None, "\\ud800x", None)
    assert gva.origin_of(gva.parse(b'{"source": [], "image": null}')) == Origin()
    raw = b'{"source": {"camera": "a", "garage": "b"}, "image": {"timestamp_ms": 1743414465802.0}}'
    origin = gva.origin_of(gva.parse(raw))
    assert origin == Origin("a", "b", 1743414465802)
    encode_rows([InstanceRow(json="a", image="b", width=1, height=1, garage="\\ud800x")])


# Images without rows: NPZ and JSON.


IMAGE = VisibleImage("a/b.json", "a/b.jpg", 1)


def outputs(annotation: Annotation) -> tuple[gva.Document, NDArray[np.uint8]]:
    entry = gva.segmentation_entry(annotation, npz_name="b.npz", model_id="SAM3", annotation_date="2026-01-31")
    merged = gva.merge(gva.parse(b'{"source": {"camera": "entry1"}}'), entry, None)
    return gva.parse(gva.render(merged.document)), read_mask(to_npz(annotation.mask))


def test_visible_rows_are_the_painted_parts() -> None:
    annotation = annotate_grounding(grounding_of(GARAGE, (40, 40)), RULES, (40, 40), 1)
    document, mask = outputs(annotation)
    assert np.array_equal(mask, annotation.mask)
    rows = visible_rows(document, mask, VisibleImage("a/b.json", "a/b.jpg", 8))
    assert [(row.class_name, row.value, row.score, row.area) for row in rows] == [
        ("car", 63, 0.9, 853), ("license_plate", 252, 0.8, 12), ("person", 126, 0.6, 100), ("passenger", 189, 0.7, 35),
    ]  # fmt: skip
    assert np.array_equal(paint_rows(rows, (40, 40)), annotation.mask)
    assert {(row.camera, row.garage, row.orientation) for row in rows} == {("entry1", None, 8)}


def test_visible_rows_leave_out_what_is_covered_and_keep_negatives() -> None:
    annotation = annotate_grounding(grounding_of([], (8, 8)), RULES, (4, 6), 1)
    document, mask = outputs(annotation)
    assert [row.class_name for row in visible_rows(document, mask, IMAGE)] == [None]
    scene = annotate_grounding(grounding_of(GARAGE, (40, 40)), RULES, (40, 40), 1)
    document, mask = outputs(scene)
    mask = np.where(mask == 252, np.uint8(63), mask)
    classes = [row.class_name for row in visible_rows(document, mask, IMAGE)]
    assert classes == ["car", "person", "passenger"]


@pytest.mark.parametrize("raw", [b"{}", b'{"annotation": {"segmentation": [{"labels": {"path": "b.npz"}}]}}'])
def test_a_json_without_our_annotation_has_no_visible_rows(raw: bytes) -> None:
    with pytest.raises(InputError, match="no annotation"):
        visible_rows(gva.parse(raw), np.zeros((2, 2), np.uint8), IMAGE)


def test_a_damaged_npz_is_refused() -> None:
    raw = to_npz(np.zeros((30, 40), np.uint8))
    for damaged in (raw[:-30], b"PK"):
        with pytest.raises(InputError, match="NPZ"):
            read_mask(damaged)
    stream = io.BytesIO()
    np.savez(stream, mask=np.zeros((3, 4), np.int32))
    with pytest.raises(InputError, match="int32"):
        read_mask(stream.getvalue())


# Cost.


def _seven_instances() -> Annotation:
    """Seven ragged ellipses at 1920 x 1080, as large as the cars and persons of a garage."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:288, :288].astype(np.float32)
    found = []
    for query in range(7):
        centre_y, centre_x, radius_y, radius_x = *rng.uniform(60, 230, 2), *rng.uniform(15, 60, 2)
        logits = 4 * (1 - np.hypot((y - centre_y) / radius_y, (x - centre_x) / radius_x))
        found.append((0, query, 0.9, (logits + rng.normal(size=logits.shape) * 0.4).astype(np.float32)))
    return annotate_grounding(
        grounding_of(found, (288, 288), prompts=1), rules_of_prompts(("car",), 0.4), (1080, 1920), 1
    )


def _cpu_s(function: object) -> float:
    """The least processor time of ten calls."""
    times = []
    for _ in range(10):
        begun = time.thread_time()
        function()  # type: ignore[operator]
        times.append(time.thread_time() - begun)
    return min(times)


def test_rows_of_seven_instances_cost_less_than_two_of_their_npz() -> None:
    """At 1080p. The rows may take 10 ms of a core at 2.5 GHz. An EPYC takes 3.9 for them and 3.7 for the NPZ."""
    annotation = _seven_instances()
    assert len(annotation.instances) >= 5
    npz_s, rows_s = _cpu_s(lambda: to_npz(annotation.mask)), _cpu_s(lambda: encode_rows(rows_of(annotation, FACTS)))
    rle_s = _cpu_s(lambda: [encode_rle(one.mask, annotation.size_hw) for one in annotation.instances])
    sys.stdout.write(f"RLE {1e3 * rle_s:.2f} ms, rows {1e3 * rows_s:.2f} ms, NPZ {1e3 * npz_s:.2f} ms\n")
    assert rows_s < 2 * npz_s
