"""Keys between two keys: estimates how far names reach, so that a long range of a listing can be split.

A name is read as a number. Its digits are the characters that names have at each position; a range of digits or letters
is completed when two of them were seen. Estimates only affect the number of requests, never what is listed.
"""

from __future__ import annotations

import string
from bisect import bisect_left
from dataclasses import dataclass
from itertools import islice, takewhile

_POSITIONS = 40
"""Characters of a name that count."""
_RANGES = ("0123456789", string.ascii_lowercase, string.ascii_uppercase)
_HEXADECIMAL = ("0123456789abcdef", "0123456789ABCDEF")


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where names ahead are looked for.

    Attributes:
        pages: Distance between two names, in pages; less if the range is expected to have fewer than twice as many.
        most: Maximum number of names.
        least: Pages that the range must be expected to have.
        is_sparse: Whether names have gaps: each distance is four times the one before.
    """

    pages: float
    most: int
    least: float
    is_sparse: bool = False


class KeySpace:
    """The names of one kind of folder."""

    def __init__(self) -> None:
        self._seen: list[set[str]] = [set() for _ in range(_POSITIONS)]
        self._alphabets: list[str] = [""] * _POSITIONS

    def observe(self, name: str) -> None:
        """Learn the characters of a name."""
        for position, character in enumerate(name[:_POSITIONS]):
            seen = self._seen[position]
            if character not in seen:
                seen.add(character)
                self._alphabets[position] = _completed(seen)

    def names_ahead(self, page: tuple[str, str], end: str | None, reach: Reach) -> list[str]:
        """Names that are expected some pages apart.

        Args:
            page: First and last name of a page.
            end: The end of the range, or None for the last name that the characters allow.
            reach: Distance and number of the names.

        Returns:
            Ascending names between the end of the page and `end`; none if the range is expected to be short.
        """
        last = page[1]
        begin, stop = self._number(last), self._number("", fill=True) if end is None else self._number(end)
        width = begin - self._number(page[0])
        distance = min(int(reach.pages * width), (stop - begin) // 2)
        if width <= 0 or distance < width or stop - begin < reach.least * width:
            return []
        steps = (4**number for number in range(_POSITIONS)) if reach.is_sparse else range(1, reach.most + 1)
        furthest = stop - 1 if reach.is_sparse else stop - distance
        numbers = takewhile(lambda number: number <= furthest, (begin + distance * step for step in steps))
        ascending: list[str] = []
        for name in map(self._name, islice(numbers, reach.most)):
            if name > (ascending[-1] if ascending else last) and (end is None or name < end):
                ascending.append(name)
        return ascending

    def _number(self, name: str, *, fill: bool = False) -> int:
        number = 0
        for position, alphabet in enumerate(self._alphabets):
            base = len(alphabet) + 1
            digit = base - 1 if fill else 0
            if position < len(name):
                character = name[position]
                found = bisect_left(alphabet, character)
                digit = min(found + 1, base - 1)
            number = number * base + digit
        return number

    def _name(self, number: int) -> str:
        digits: list[int] = []
        for alphabet in reversed(self._alphabets):
            number, digit = divmod(number, len(alphabet) + 1)
            digits.append(digit)
        name = ""
        for alphabet, digit in zip(self._alphabets, reversed(digits), strict=True):
            if digit == 0:
                break
            name += alphabet[digit - 1]
        return name


def _completed(seen: set[str]) -> str:
    """The characters at a position, ascending, with those that are probably still to come."""
    if len(seen) == 1 and not seen <= set(_RANGES[0]):
        return "".join(seen)
    for numerals in _HEXADECIMAL:
        if seen <= set(numerals) and not seen.isdisjoint(_RANGES[0]) and not seen <= set(_RANGES[0]):
            return numerals
    found = set(seen)
    for characters in _RANGES:
        if not seen.isdisjoint(characters):
            found.update(characters)
    return "".join(sorted(found))
