"""Lossless JSON: every number keeps its spelling and every key its position (RFC 8259, RFC 7493).

Python's decoder is used, with numbers kept as text. Python's encoder is not used, because it can only write numbers
that it has parsed. Input that cannot be preserved exactly is rejected.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from job.errors import InputError

MAX_INTEGER_DIGITS = 4300
"""Python's default limit for the text of an integer, so that Python can read the output."""
MAX_BYTES = 16 << 20
"""Largest file that is read or written; a parsed document takes up to 40 times the memory of its file."""
MAX_DEPTH = 500
"""Maximum nesting of objects and arrays; common JSON readers support this depth."""
_MAX_SHOWN_KEY = 80
_TOO_LARGE = f"JSON has more than {MAX_BYTES} bytes when it is written with indents, and no more can be read"
_TOO_DEEP = f"JSON is nested too deeply: allowed are {MAX_DEPTH} levels"

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_encode_string = json.encoder.encode_basestring


@dataclass(frozen=True, slots=True)
class RawNumber:
    """A number in its original spelling."""

    text: str


def parse(raw: bytes) -> dict[str, Any]:
    """Decode an object.

    Args:
        raw: UTF-8, with or without a byte order mark.

    Returns:
        Objects, arrays, strings, `RawNumber`, booleans and None.

    Raises:
        InputError: The input is too large, not UTF-8, not JSON, not an object, or cannot be preserved exactly.
    """
    if len(raw) > MAX_BYTES:
        raise InputError(f"JSON has {len(raw)} bytes, allowed are {MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(f"JSON is not UTF-8: byte {exc.start} is 0x{raw[exc.start]:02x}") from exc
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        raise InputError(f"JSON is broken: {exc.msg} at line {exc.lineno}, column {exc.colno}") from exc
    except RecursionError as exc:
        raise InputError(_TOO_DEEP) from exc
    if not isinstance(value, dict):
        raise InputError(f"JSON is not an object but {_kind(value)}")
    _check_depth(value)
    return value


def render(value: Any) -> bytes:
    """Encode with an indent of 2, not escaped to ASCII, in the order of the keys.

    Args:
        value: A result of `parse`, which may also contain Python's numbers, tuples and lists.

    Returns:
        UTF-8. A lone surrogate is written as its escape.

    Raises:
        InputError: It would be larger than what can be read: indentation makes nested arrays many times longer.
        ValueError: A float is not finite.
    """
    parts, size = [], 0
    for part in _write(value, "\n"):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise InputError(_TOO_LARGE)
    rendered = _LONE_SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", "".join(parts)).encode("utf-8")
    if len(rendered) > MAX_BYTES:
        raise InputError(_TOO_LARGE)
    return rendered


def canonical(value: Any) -> str:
    """A text that is equal for equal results of `parse`, whatever the order of their keys, and for no others."""
    # Parsed values hold no Python integer, so the 0 marks a number.
    return json.dumps(value, sort_keys=True, default=lambda number: [number.text, 0])


def as_int(value: Any) -> int | None:
    """Convert a parsed value to an integer (`1920` and `1920.0` alike); None if it is not one."""
    if not isinstance(value, RawNumber):
        return None
    if value.text.lstrip("-").isdigit():
        return int(value.text)
    number = float(value.text)
    return int(number) if number.is_integer() else None


def _write(value: Any, line: str) -> Iterator[str]:
    if isinstance(value, RawNumber):
        yield value.text
    elif isinstance(value, str):
        yield _encode_string(value)
    elif isinstance(value, dict) and value:
        inner = line + "  "
        for i, (key, item) in enumerate(value.items()):
            yield f"{',' if i else '{'}{inner}{_encode_string(key)}: "
            yield from _write(item, inner)
        yield line + "}"
    elif isinstance(value, list | tuple) and value:
        inner = line + "  "
        for i, item in enumerate(value):
            yield f"{',' if i else '['}{inner}"
            yield from _write(item, inner)
        yield line + "]"
    else:
        yield json.dumps(value, allow_nan=False)


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        items = (item for part in level for item in (part.values() if isinstance(part, dict) else part))
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return
    raise InputError(_TOO_DEEP)


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InputError(f"JSON has the key {twice[:_MAX_SHOWN_KEY]!r} twice in one object")
    return found


def _integer(text: str) -> RawNumber:
    digits = len(text.lstrip("-"))
    if digits > MAX_INTEGER_DIGITS:
        raise InputError(f"JSON has an integer of {digits} digits, allowed are {MAX_INTEGER_DIGITS}")
    return RawNumber(text)


def _refuse_constant(name: str) -> NoReturn:
    raise InputError(f"JSON has {name}, which RFC 8259 does not allow: use null or a number")


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "true or false", RawNumber: "a number"}
    return kinds.get(type(value), "null")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_object, parse_float=RawNumber, parse_int=_integer, parse_constant=_refuse_constant
)
