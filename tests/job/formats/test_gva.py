from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.errors import InputError
from job.formats import gva
from job.formats.lossless_json import RawNumber
from job.postprocess.annotate import Annotation
from job.postprocess.instances import Instance
from job.postprocess.masks import crop_mask
from job.rules.rules import rules_of_prompts

PROMPTS = ("car", "license plate", "person")
NPZ = "image.npz"


def annotation(*instances: tuple[str, float, int]) -> Annotation:
    """Class, score and value of each instance."""
    mask = crop_mask(np.ones((1, 1), np.bool_), (0, 0), (2, 2))
    assert mask is not None
    return Annotation(
        rules=rules_of_prompts(PROMPTS, 0.4),
        mask=np.zeros((2, 2), np.uint8),
        instances=tuple(Instance(name, score, i, mask) for i, (name, score, _) in enumerate(instances)),
        values=tuple(value for _, _, value in instances),
        visible_areas=(1,) * len(instances),
        parents=(None,) * len(instances),
        beyond_255=(),
    )


def entry_of(found: Annotation, prompts: Sequence[str] = PROMPTS, model_id: str = "SAM3") -> dict[str, Any]:
    ruled = replace(found, rules=rules_of_prompts(prompts, 0.4))
    return gva.segmentation_entry(ruled, npz_name=NPZ, model_id=model_id, annotation_date="2025-12-03")


OURS = entry_of(annotation(("car", 0.5, 255)))


def other(name: str, path: str = "other.npz", **fields: Any) -> dict[str, Any]:
    return {"annotator": {"annotator_type": "Model", "model_id": name}, "labels": {"path": path}, **fields}


def old(date: str = "2024-01-01", **fields: Any) -> dict[str, Any]:
    """An earlier entry of ours."""
    return {**other("SAM3", NPZ), "annotation_date": date, **fields}


def document(*entries: Any, **fields: Any) -> gva.Document:
    return gva.parse(json.dumps({**fields, "annotation": {"segmentation": list(entries)}}).encode())


def plain(merged: gva.Document) -> Any:
    return json.loads(gva.render(merged))


def entries_of(merged: gva.MergeResult) -> Any:
    return plain(merged.document)["annotation"]["segmentation"]


# --- our entry ---------------------------------------------------------------------------------------------------

EXAMPLE = """{
  "annotation_date": "2025-12-03",
  "considered_classes": ["car", "license_plate", "person", "passenger"],
  "annotator": {
    "annotator_type": "Model",
    "model_id": "SAM3",
    "model_metadata": {
      "model_type": "segmentation",
      "model_name": "SAM3",
      "classes": {"0": "car", "1": "license_plate", "2": "person", "3": "passenger"}
    }
  },
  "labels": {
    "annotation_format": "all_masks_on_single_array",
    "annotation_format_version": "1.0",
    "path": "image.npz",
    "properties": {"car": [180, 144, 72, 36, 108], "license_plate": [252, 216]},
    "confidences": {"car": [0.666, 0.842, 0.919, 0.895, 0.634], "license_plate": [0.856, 0.799]}
  },
  "review": null
}"""


def test_the_entry_is_that_of_the_original() -> None:
    cars = [(0.666, 180), (0.842, 144), (0.919, 72), (0.895, 36), (0.634, 108)]
    found = annotation(
        *(("car", score, value) for score, value in cars), ("license_plate", 0.856, 252), ("license_plate", 0.799, 216)
    )
    assert json.dumps(entry_of(found)) == json.dumps(json.loads(EXAMPLE))


def test_no_instances_give_two_empty_objects() -> None:
    labels = entry_of(annotation())["labels"]
    assert (labels["properties"], labels["confidences"]) == ({}, {})


@pytest.mark.parametrize(
    ("prompts", "classes"),
    [
        (("car",), ["car"]),
        (("traffic light", "car"), ["traffic_light", "car"]),
        (("person", "car"), ["person", "car", "passenger"]),
    ],
    ids=str,
)
def test_classes_follow_the_prompts(prompts: tuple[str, ...], classes: list[str]) -> None:
    entry = entry_of(annotation(), prompts, "SAM3-demo")
    assert entry["considered_classes"] == classes
    assert entry["annotator"]["model_id"] == "SAM3-demo"
    assert entry["annotator"]["model_metadata"] == {
        "model_type": "segmentation",
        "model_name": "SAM3-demo",
        "classes": {str(i): name for i, name in enumerate(classes)},
    }


def test_scores_have_three_decimals() -> None:
    found = annotation(("car", 0.40004999, 100), ("car", float(np.float32(0.9996)), 200))
    assert entry_of(found)["labels"]["confidences"] == {"car": [0.4, 1.0]}


# --- merging -----------------------------------------------------------------------------------------------------

A, B, C = other("A"), other("B"), other("C")


@pytest.mark.parametrize(
    ("listed", "prior", "expected"),
    [
        pytest.param([], None, [OURS], id="first"),
        pytest.param([A, B], None, [A, B, OURS], id="appended"),
        pytest.param([A, old(), B], None, [A, OURS, B], id="replaced where it stands"),
        pytest.param([old(), A, old("2023"), B, old()], None, [OURS, A, B], id="further ones of ours are dropped"),
        pytest.param([A], [A, old()], [A, OURS], id="the output's own entry of ours is not kept"),
        pytest.param([A], [C, old(), A, B], [A, OURS, C, B], id="entries that only the output has are kept"),
        pytest.param([old(), A], [B], [OURS, A, B], id="ours in the input, another in the output"),
        pytest.param([], [other("D", NPZ), A], [OURS, A], id="the output's other entry at our mask is dropped"),
        pytest.param([other("A", note=1)], [A], [other("A", note=1), OURS, A], id="same annotator, other contents"),
        pytest.param([7, None, "x", []], [[], {}], [7, None, "x", [], OURS, {}], id="entries that are no objects"),
        pytest.param([{"annotator": "SAM3"}], None, [{"annotator": "SAM3"}, OURS], id="annotator is no object"),
        pytest.param([{"annotator": {"model_id": ["SAM3"]}}], None, [{"annotator": {"model_id": ["SAM3"]}}, OURS],
                     id="model_id is no string"),
        pytest.param([other("SAM3-demo", "demo.npz")], None, [other("SAM3-demo", "demo.npz"), OURS], id="demo model"),
    ],
)  # fmt: skip
def test_merge(listed: list[Any], prior: list[Any] | None, expected: list[Any]) -> None:
    merged = gva.merge(document(*listed), OURS, None if prior is None else document(*prior))
    assert entries_of(merged) == expected
    assert merged.warnings == ()


@pytest.mark.parametrize(
    ("listed", "prior", "expected", "warning"),
    [
        pytest.param([other("A", NPZ)], None, [other("A", NPZ), OURS],
                     "the entry of 'A' points at image.npz, which now holds our masks", id="input's entry is kept"),
        pytest.param([other("A", NPZ)], [other("A", NPZ, review="x"), OURS], [other("A", NPZ), OURS],
                     "the reviewed entry of 'A' in the output pointed at image.npz", id="reviewed in the output"),
        pytest.param([{"labels": {"path": NPZ}}], None, [{"labels": {"path": NPZ}}, OURS],
                     "the entry of another annotator points at image.npz", id="without an annotator"),
        pytest.param([{"annotator": {"model_id": 5, "annotator_type": "Human"}, "labels": {"path": NPZ}}], None,
                     [{"annotator": {"model_id": 5, "annotator_type": "Human"}, "labels": {"path": NPZ}}, OURS],
                     "the entry of 'Human' points at image.npz", id="a person's"),
        pytest.param([], [other("SAM3-demo", NPZ, review={"ok": True})], [OURS],
                     "the reviewed entry of 'SAM3-demo' in the output pointed at image.npz", id="reviewed demo labels"),
    ],
)  # fmt: skip
def test_merge_warns(listed: list[Any], prior: list[Any] | None, expected: list[Any], warning: str) -> None:
    merged = gva.merge(document(*listed), OURS, None if prior is None else document(*prior))
    assert entries_of(merged) == expected
    assert any(text.startswith(warning) for text in merged.warnings)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param('{"a": 1}', {"a": 1, "annotation": {"segmentation": [OURS]}}, id="no annotation"),
        pytest.param('{"annotation": null, "a": 1}', {"annotation": {"segmentation": [OURS]}, "a": 1}, id="null"),
        pytest.param('{"annotation": {"boxes": []}}', {"annotation": {"boxes": [], "segmentation": [OURS]}},
                     id="no segmentation"),
        pytest.param('{"annotation": {"segmentation": null, "boxes": []}}',
                     {"annotation": {"segmentation": [OURS], "boxes": []}}, id="segmentation is null"),
    ],
)  # fmt: skip
def test_missing_annotation_fields_are_created(raw: str, expected: Any) -> None:
    merged = gva.merge(gva.parse(raw.encode()), OURS, None)
    assert json.dumps(plain(merged.document)) == json.dumps(expected)


SEGMENTATIONS = st.lists(
    st.sampled_from(
        [A, B, other("A", NPZ), old(), old(review="good"), other("B", note=RawNumber("1.50")), {}, None, RawNumber("7")]
    ),
    max_size=5,
)
FIELDS = st.dictionaries(
    st.text(max_size=5),
    st.sampled_from([RawNumber("0.1234567890123456789"), {"a": [RawNumber("1E400")]}, "\ud800", []]),
)


@st.composite
def gva_documents(draw: st.DrawFn) -> gva.Document:
    before, inside, behind = (dict[str, Any](draw(FIELDS)) for _ in range(3))
    segmentation: dict[str, Any] = draw(
        st.just({}) | st.fixed_dictionaries({"segmentation": SEGMENTATIONS | st.none()})
    )
    annotation_field: dict[str, Any] = draw(
        st.sampled_from([{}, {"annotation": None}, {"annotation": inside | segmentation}])
    )
    return gva.Document(before | annotation_field | behind)


@settings(deadline=None)
@given(gva_documents(), st.none() | gva_documents())
def test_merging_again_over_its_own_output_changes_nothing(given_: gva.Document, prior: gva.Document | None) -> None:
    once = gva.render(gva.merge(given_, OURS, prior).document)
    again = gva.merge(given_, OURS, gva.parse_prior(once))
    assert gva.render(again.document) == once
    as_input = gva.merge(gva.parse(once), OURS, None)
    assert gva.render(as_input.document) == once


@settings(deadline=None)
@given(gva_documents(), st.none() | gva_documents())
def test_merging_does_not_modify_its_arguments(given_: gva.Document, prior: gva.Document | None) -> None:
    entry = copy.deepcopy(OURS)
    before = copy.deepcopy((given_, prior, entry))
    gva.merge(given_, entry, prior)
    assert (given_, prior, entry) == before


@settings(deadline=None)
@given(gva_documents())
def test_the_document_is_unchanged_except_for_our_entry(given_: gva.Document) -> None:
    fields = gva.merge(given_, OURS, None).document.fields
    before = given_.fields
    assert list(fields) == list(before) + ["annotation"] * ("annotation" not in before)
    for name, value in before.items():
        if name != "annotation":
            assert gva.render(gva.Document({"": fields[name]})) == gva.render(gva.Document({"": value}))
    annotation_before = before.get("annotation") or {}
    assert {**fields["annotation"], "segmentation": None} == {**annotation_before, "segmentation": None}
    others = [entry for entry in annotation_before.get("segmentation") or [] if not is_ours(entry)]
    assert [entry for entry in fields["annotation"]["segmentation"] if not is_ours(entry)] == others


@settings(deadline=None)
@given(gva_documents(), gva_documents())
def test_only_entries_at_our_mask_are_dropped(given_: gva.Document, prior: gva.Document) -> None:
    merged = gva.merge(given_, OURS, prior).document.fields["annotation"]["segmentation"]
    assert [entry for entry in merged if is_ours(entry)] == [OURS]
    for entry in (prior.fields.get("annotation") or {}).get("segmentation") or []:
        assert is_ours(entry) or entry in merged or entry == other("A", NPZ)


def is_ours(entry: Any) -> bool:
    """Of the entries that these tests make."""
    annotator = entry.get("annotator") if isinstance(entry, dict) else None
    return isinstance(annotator, dict) and annotator.get("model_id") == "SAM3"


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parse", [gva.parse, gva.parse_prior])
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b'{"annotation": []}', "JSON field annotation is not an object", id="list"),
        pytest.param(b'{"annotation": false}', "JSON field annotation is not an object", id="false"),
        pytest.param(b'{"annotation": ""}', "JSON field annotation is not an object", id="empty string"),
        pytest.param(b'{"annotation": 0}', "JSON field annotation is not an object", id="zero"),
        pytest.param(b'{"annotation": {"segmentation": {}}}', "annotation.segmentation is not a list", id="object"),
        pytest.param(b'{"annotation": {"segmentation": ""}}', "annotation.segmentation is not a list", id="string"),
        pytest.param(b'{"a": ', "JSON is broken", id="broken"),
        pytest.param(b"[]", "JSON is not an object", id="no object"),
    ],
)
def test_annotation_fields_of_another_type_are_rejected(parse: Any, raw: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse(raw)


def test_an_invalid_output_json_is_rejected_with_advice() -> None:
    with pytest.raises(InputError, match=r"the JSON in the output folder cannot be read \(.+\): repair or remove it"):
        gva.parse_prior(b"{")


@pytest.mark.parametrize(
    ("entries", "is_reviewed"),
    [
        pytest.param([], False, id="no entry"),
        pytest.param([old(review=None)], False, id="null"),
        pytest.param([old()], False, id="absent"),
        pytest.param([old(review={"verdict": "good"})], True, id="object"),
        pytest.param([old(review="")], True, id="empty string"),
        pytest.param([old(review=False)], True, id="false"),
        pytest.param([old(), A, old(review="x")], True, id="a later one of ours"),
        pytest.param([other("A", review="x"), {"review": "x"}, "x"], False, id="others'"),
    ],
)
def test_is_reviewed(entries: list[Any], is_reviewed: bool) -> None:
    assert gva.is_reviewed(document(*entries), "SAM3") is is_reviewed


def test_a_document_without_annotation_is_not_reviewed() -> None:
    assert not gva.is_reviewed(gva.parse(b"{}"), "SAM3")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ('{"dimensions": {"width": 1920, "height": 1080}}', (1920, 1080)),
        ('{"dimensions": {"width": 1920.0, "height": 1.08e3}}', (1920, 1080)),
        ('{"dimensions": {"width": 1920}}', None),
        ('{"dimensions": {"width": "1920", "height": "1080"}}', None),
        ('{"dimensions": {"width": 1E400, "height": 1080}}', None),
        ('{"dimensions": {"width": true, "height": null}}', None),
        ('{"dimensions": [1920, 1080]}', None),
        ("[]", None),
        ("null", None),
        ('"1920x1080"', None),
    ],
    ids=str,
)
def test_declared_size(image: str, expected: tuple[int, int] | None) -> None:
    assert gva.declared_size_wh(gva.parse(f'{{"image": {image}}}'.encode())) == expected


def test_no_declared_size_without_an_image_field() -> None:
    assert gva.declared_size_wh(gva.parse(b"{}")) is None
