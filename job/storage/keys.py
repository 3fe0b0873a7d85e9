"""Keys: relative names of objects, and the family of keys that belong to one image.

Keys are compared byte by byte in UTF-8, the order in which S3 lists them; Python compares strings by code
point, which is the same order for every key that is valid UTF-8.
"""

from __future__ import annotations

JSON_SUFFIX = ".json"
MASK_SUFFIX = ".npz"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")
"""In order of preference: the first that exists is the image of a JSON."""

_FAMILY = frozenset((JSON_SUFFIX, MASK_SUFFIX, *IMAGE_SUFFIXES))

MAX_KEY_BYTES = 1024
"""Longest key that S3 holds, in UTF-8."""


def split_key(key: str) -> tuple[str, str]:
    """Stem (with its folders) and suffix; the suffix is one of the family's, else empty.

    >>> split_key("a/b.c.json")
    ('a/b.c', '.json')
    """
    stem, _, extension = key.rpartition(".")
    suffix = f".{extension}"
    if suffix in _FAMILY and stem and not stem.endswith("/"):
        return stem, suffix
    return key, ""


def stem_of(json_key: str) -> str:
    """`a/b` of `a/b.json`."""
    return json_key.removesuffix(JSON_SUFFIX)


def mask_key(json_key: str) -> str:
    """`a/b.npz` of `a/b.json`."""
    return stem_of(json_key) + MASK_SUFFIX


def ordered(key: str) -> bytes:
    """What keys are compared by; also for names that are not UTF-8 (as `os.fsdecode` gives them)."""
    return key.encode("utf-8", "surrogateescape")


def key_problem(key: str) -> str | None:
    """Why a key cannot name an input, or None when it can."""
    try:
        size = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if size > MAX_KEY_BYTES:
        return f"its name has {size} bytes, an object store holds {MAX_KEY_BYTES}"
    if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
        return "its name cannot be that of a file: a part of it is empty, a dot, two dots, or holds a zero byte"
    return None


def printable(key: str) -> str:
    """The key, bytes that are not UTF-8 written as backslash escapes."""
    return ordered(key).decode("utf-8", "backslashreplace")
