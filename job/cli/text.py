"""What commands print that came from elsewhere: keys and messages may hold anything."""

from __future__ import annotations


def one_line(text: str) -> str:
    """The text without line ends and control characters, which a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
