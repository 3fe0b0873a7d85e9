from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.errors import InputError
from job.formats.lossless_json import MAX_DEPTH, MAX_INTEGER_DIGITS, RawNumber, as_int, parse, render

SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

strings = st.text(st.characters(codec="utf-8") | st.characters(categories=["Cs"])).filter(
    lambda text: not SURROGATE_PAIR.search(text)  # a pair is one character, which Python holds as one
)
spelled_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", fullmatch=True).map(
    RawNumber
)


def documents(numbers: st.SearchStrategy[Any], texts: st.SearchStrategy[str] = strings) -> st.SearchStrategy[Any]:
    values = st.recursive(
        st.none() | st.booleans() | numbers | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=15,
    )
    return st.dictionaries(texts, values, max_size=5)


@settings(deadline=None)
@given(documents(spelled_numbers))
def test_rendered_documents_parse_to_the_same_values(document: dict[str, Any]) -> None:
    again = parse(render(document))
    assert again == document
    assert render(again) == render(document)


@settings(deadline=None)
@given(documents(st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.text()))
def test_the_layout_equals_that_of_json_dumps(document: dict[str, Any]) -> None:
    expected = json.dumps(document, indent=2, ensure_ascii=False).encode()
    assert render(document) == expected
    assert render(parse(expected)) == expected


@pytest.mark.parametrize(
    "spelling",
    ["0.1234567890123456789", "1E400", "1e-400", "-0", "-0.0", "1.10", "1e5", "1E+05", "9" * MAX_INTEGER_DIGITS],
    ids=lambda text: text[:22],
)
def test_a_number_keeps_its_spelling(spelling: str) -> None:
    assert render(parse(f'{{"a": [{spelling}]}}'.encode())) == f'{{\n  "a": [\n    {spelling}\n  ]\n}}'.encode()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b'\xef\xbb\xbf{"a": null}', b'{\n  "a": null\n}', id="byte order mark"),
        pytest.param(b'{"z": true, "a": false}', b'{\n  "z": true,\n  "a": false\n}', id="order of keys"),
        pytest.param(b'{"a": {}, "b": []}', b'{\n  "a": {},\n  "b": []\n}', id="empty ones stay on their line"),
        pytest.param(b"{}", b"{}", id="empty"),
        pytest.param('{"ä": "\\u00e9車"}'.encode(), '{\n  "ä": "é車"\n}'.encode(), id="not escaped to ASCII"),
        pytest.param(b'{"a": "\\ud83d\\ude00"}', '{\n  "a": "\U0001f600"\n}'.encode(), id="pair of surrogates"),
        pytest.param(b'{"a": "\\uD800"}', b'{\n  "a": "\\ud800"\n}', id="lone surrogate"),
        pytest.param(
            b'{"\\udfff": "\\udc00\\ud800"}', b'{\n  "\\udfff": "\\udc00\\ud800"\n}', id="surrogates in a key"
        ),
        pytest.param(b'{"a": "\\"\\\\\\n\\u0001/"}', b'{\n  "a": "\\"\\\\\\n\\u0001/"\n}', id="escapes"),
    ],
)
def test_documents_are_preserved(raw: bytes, expected: bytes) -> None:
    assert render(parse(raw)) == expected


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", "JSON is broken: Expecting value at line 1, column 1", id="empty file"),
        pytest.param(b'{"a": 1,\n "b"', "JSON is broken: .* at line 2", id="cut off"),
        pytest.param(b'{"a": 1} x', "JSON is broken: Extra data", id="something behind it"),
        pytest.param(b'{"a": "\n"}', "JSON is broken: Invalid control character", id="line break in a string"),
        pytest.param(b'{"a": "\xff"}', "JSON is not UTF-8: byte 7 is 0xff", id="Latin-1"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', "JSON is not UTF-8", id="surrogate in UTF-8"),
        pytest.param('{"a": 1}'.encode("utf-16"), "JSON is not UTF-8", id="UTF-16"),
        pytest.param(b'{"a": NaN}', "JSON has NaN", id="NaN"),
        pytest.param(b'{"a": -Infinity}', "JSON has -Infinity", id="infinity"),
        pytest.param(b'{"b": {"a": 1, "c": 2, "a": 1}}', "JSON has the key 'a' twice", id="key twice"),
        pytest.param(b'{"a": 1, "\\u0061": 1}', "JSON has the key 'a' twice", id="key twice, once escaped"),
        pytest.param(b"[]", "JSON is not an object but an array", id="array"),
        pytest.param(b'"a"', "JSON is not an object but a string", id="string"),
        pytest.param(b"1", "JSON is not an object but a number", id="number"),
        pytest.param(b"true", "JSON is not an object but true or false", id="boolean"),
        pytest.param(b"null", "JSON is not an object but null", id="null"),
        pytest.param(b'{"a": -' + b"9" * 4301 + b"}", "integer of 4301 digits, allowed are 4300", id="long integer"),
        pytest.param(b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested too deeply", id="a level too deep"),
        pytest.param(b'{"a":' * 100_000, "nested too deeply", id="far too deep"),
    ],
)
def test_documents_that_cannot_be_preserved_are_rejected(raw: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse(raw)


def test_the_reason_does_not_repeat_a_long_key() -> None:
    key = b"k" * 100_000
    with pytest.raises(InputError) as refusal:
        parse(b'{"' + key + b'": 1, "' + key + b'": 2}')
    assert len(str(refusal.value)) < 200


def test_the_maximum_nesting_is_accepted() -> None:
    raw = b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"1" + b"]" * (MAX_DEPTH - 1) + b"}"
    assert parse(render(parse(raw))) == parse(raw)


def test_python_values_may_be_rendered() -> None:
    value = {"a": (1, 0.5), "b": [RawNumber("1.0"), ()]}
    assert render(value) == b'{\n  "a": [\n    1,\n    0.5\n  ],\n  "b": [\n    1.0,\n    []\n  ]\n}'


def test_python_floats_must_be_finite() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        render({"a": float("nan")})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (RawNumber("1920"), 1920),
        (RawNumber("-3"), -3),
        (RawNumber("1920.0"), 1920),
        (RawNumber("1.92e3"), 1920),
        (RawNumber("1920.5"), None),
        (RawNumber("1E400"), None),
        ("1920", None),
        (True, None),
        (None, None),
        ([], None),
    ],
    ids=str,
)
def test_as_int(value: Any, expected: int | None) -> None:
    assert as_int(value) == expected
