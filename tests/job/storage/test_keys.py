from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.storage.keys import key_problem, mask_key, mask_name, ordered, printable, split_key, stem_of


@pytest.mark.parametrize(
    ("key", "stem", "suffix"),
    [
        ("a/b.json", "a/b", ".json"),
        ("a/b.c.json", "a/b.c", ".json"),
        ("b.npz", "b", ".npz"),
        ("b.jpg", "b", ".jpg"),
        ("b.jpeg", "b", ".jpeg"),
        ("b.JPG", "b", ".JPG"),
        ("b.JPEG", "b", ".JPEG"),
        ("b.Jpg", "b.Jpg", ""),
        ("b.JSON", "b.JSON", ""),
        ("b.png", "b.png", ""),
        ("b.json.bak", "b.json.bak", ""),
        ("a.json/b", "a.json/b", ""),
        ("json", "json", ""),
        ("a/.json", "a/.json", ""),
        ("a b/ä.json", "a b/ä", ".json"),
    ],
)
def test_split_key(key: str, stem: str, suffix: str) -> None:
    assert split_key(key) == (stem, suffix)


def test_the_keys_of_a_group() -> None:
    assert (stem_of("a/b.c.json"), mask_key("a/b.c.json")) == ("a/b.c", "a/b.c.npz")
    assert mask_name("a/b.c.json") == mask_name("b.c.json") == "b.c.npz"


@given(st.lists(st.text()))
def test_keys_are_ordered_as_python_orders_strings(keys: list[str]) -> None:
    assert sorted(keys, key=ordered) == sorted(keys)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        pytest.param("a/b.json", None, id="usual"),
        pytest.param("車/ä.json", None, id="not ASCII"),
        pytest.param("k" * 1024, None, id="1024 bytes"),
        pytest.param("k" * 1025, "its name has 1025 bytes, an object store allows 1024", id="1025 bytes"),
        pytest.param(
            "ä" * 513, "its name has 1026 bytes, an object store allows 1024", id="1026 bytes in 513 characters"
        ),
        pytest.param("caf\udce9.json", "its name is not UTF-8", id="Latin-1"),
    ],
)
def test_key_problem(key: str, problem: str | None) -> None:
    assert key_problem(key) == problem


@pytest.mark.parametrize(
    ("key", "expected"),
    [("a/ä.json", "a/ä.json"), ("caf\udce9.json", "caf\\xe9.json"), ("\udcff\udcfe", "\\xff\\xfe")],
    ids=["UTF-8", "Latin-1", "no text at all"],
)
def test_any_key_can_be_printed(key: str, expected: str) -> None:
    assert printable(key) == expected
    printable(key).encode("utf-8")
