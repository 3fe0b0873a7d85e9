"""JSONs that would take memory or time out of proportion to their size."""

from __future__ import annotations

import time

import pytest

from job.errors import InputError
from job.formats import gva, lossless_json

ENTRY = {"annotator": {"model_id": "SAM3"}, "labels": {"path": "a.npz"}, "review": None}


def test_a_json_that_is_too_large_is_refused() -> None:
    raw = b'{"a": "%s"}' % (b"x" * lossless_json.MAX_BYTES)
    with pytest.raises(InputError, match=r"JSON has 16777\d+ bytes, allowed are 16777216"):
        lossless_json.parse(raw)


def test_indents_do_not_multiply_a_json_without_limit() -> None:
    document = lossless_json.parse(b'{"a": %s%s1%s}' % (b"[" * 490, b"1," * 100_000, b"]" * 490))
    with pytest.raises(InputError, match="JSON has more than 16777216 bytes when it is written with indents"):
        lossless_json.render(document)


def entries(count: int) -> gva.Document:
    listed = b",".join(b'{"annotator": {"model_id": "other-%d"}}' % number for number in range(count))
    return gva.parse(b'{"annotation": {"segmentation": [%s]}}' % listed)


def merge_seconds(count: int) -> float:
    document, prior = entries(count), entries(count)
    begun_s = time.perf_counter()
    merged = gva.merge(document, ENTRY, prior)
    assert len(merged.document.fields["annotation"]["segmentation"]) == count + 1
    return time.perf_counter() - begun_s


def test_the_time_of_a_merge_grows_with_the_number_of_entries_not_with_its_square() -> None:
    """Sixteen times the entries would take 256 times as long."""
    assert min(merge_seconds(8_000) for _ in range(3)) < 64 * min(merge_seconds(500) for _ in range(3))


def test_entries_with_other_numbers_or_key_order_are_compared_as_values() -> None:
    document = gva.parse(b'{"annotation": {"segmentation": [{"a": 1.0, "b": [[]]}]}}')
    prior = gva.parse(
        b'{"annotation": {"segmentation": [{"b": [[]], "a": 1.0}, {"a": 1, "b": [[]]}, {"a": ["1.0", 0]}]}}'
    )
    merged = gva.merge(document, ENTRY, prior).document.fields["annotation"]["segmentation"]
    assert len(merged) == 4, "the first entry of the output is that of the input"


def test_a_long_camera_name_is_not_repeated_in_every_row() -> None:
    document = gva.parse(b'{"source": {"camera": "%s", "garage": "g"}}' % (b"c" * 1001))
    assert gva.origin_of(document) == gva.Origin(camera=None, garage="g")


def test_warnings_of_one_image_are_few() -> None:
    other = b'{"annotator": {"model_id": "%s"}, "labels": {"path": "a.npz"}}' % (b"m" * 500)
    document = gva.parse(b'{"annotation": {"segmentation": [%s]}}' % b",".join([other] * 100))
    warnings = gva.merge(document, ENTRY, None).warnings
    assert len(warnings) == 11
    assert warnings[-1] == "and 90 more entries"
    assert max(map(len, warnings)) < 200
