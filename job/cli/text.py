"""Sanitizing of keys and messages before they are printed."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Replace line ends and control characters, which would control a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
