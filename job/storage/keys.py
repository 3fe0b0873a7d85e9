"""Keys: relative names of objects, and the group of keys of one image.

Keys are ordered by their UTF-8 bytes, as S3 lists them. For valid UTF-8 this is also the order of Python strings,
which is by code point.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

JSON_SUFFIX = ".json"
MASK_SUFFIX = ".npz"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")
"""In order of preference: the first that exists is the image of a JSON."""
READ_FORMATS = ".jpg and .jpeg"
"""In messages; capitals are read too."""
GROUP_SUFFIXES = (JSON_SUFFIX, MASK_SUFFIX, *IMAGE_SUFFIXES)
"""Suffixes of all keys of one image."""
UNREAD_SUFFIXES = (
    *(f".{name}" for name in ("png", "webp", "bmp", "gif", "tif", "tiff", "heic", "heif", "avif", "jfif", "jpe")),
    *(f".{name}" for name in ("PNG", "WEBP", "BMP", "GIF", "TIF", "TIFF", "HEIC", "HEIF", "AVIF", "JFIF", "JPE")),
    *(".Jpg", ".Jpeg"),
)
"""Suffixes of pictures that are not read."""
_UNREAD = frozenset(UNREAD_SUFFIXES)

MAX_KEY_BYTES = 1024
"""Longest key that S3 stores, in UTF-8."""


def split_key(key: str) -> tuple[str, str]:
    """Stem (with its folders) and suffix; the suffix is one of `GROUP_SUFFIXES`, else empty.

    >>> split_key("a/b.c.json")
    ('a/b.c', '.json')
    """
    stem, _, extension = key.rpartition(".")
    suffix = f".{extension}"
    if suffix in GROUP_SUFFIXES and stem and not stem.endswith("/"):
        return stem, suffix
    return key, ""


def stem_of(json_key: str) -> str:
    """`a/b` of `a/b.json`."""
    return json_key.removesuffix(JSON_SUFFIX)


def mask_key(json_key: str) -> str:
    """`a/b.npz` of `a/b.json`."""
    return stem_of(json_key) + MASK_SUFFIX


def mask_name(json_key: str) -> str:
    """`b.npz` of `a/b.json`, as the entry of the JSON names it."""
    return mask_key(json_key).rpartition("/")[2]


def ordered(key: str) -> bytes:
    """The sort key of a key; also of names that are not UTF-8 (as `os.fsdecode` returns them)."""
    return key.encode("utf-8", "surrogateescape")


def key_problem(key: str) -> str | None:
    """Why a key cannot name an input, or None if it can."""
    try:
        size = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if size > MAX_KEY_BYTES:
        return f"its name has {size} bytes, an object store allows {MAX_KEY_BYTES}"
    if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
        return "its name cannot be that of a file: a part of it is empty, a dot, two dots, or holds a zero byte"
    return None


def fits_globs(key: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether globs select a key: one of `include` matches, or there is none, and none of `exclude` does.

    `*` matches `/` too.
    """
    is_included = not include or any(fnmatchcase(key, glob) for glob in include)
    return is_included and not any(fnmatchcase(key, glob) for glob in exclude)


def is_unread_picture(key: str) -> bool:
    """Whether a key ends in one of `UNREAD_SUFFIXES`."""
    _, dot, extension = key.rpartition(".")
    return dot + extension in _UNREAD


_MACHINE_FILE = re.compile(r"(?:^|/)(?:\._[^/]*\Z|\.DS_Store\Z|(?:__MACOSX|\.ipynb_checkpoints)/)")


def is_machine_file(key: str) -> bool:
    """Whether macOS or Jupyter left this file (`._*`, `.DS_Store`, `__MACOSX/`, `.ipynb_checkpoints/`): no input."""
    return _MACHINE_FILE.search(key) is not None


def printable(key: str) -> str:
    """The key with backslash escapes for bytes that are not UTF-8."""
    return ordered(key).decode("utf-8", "backslashreplace")
