"""The commands and programs of a guide, as a reader copies them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

GUIDES = Path(__file__).parent.parent / "docs" / "guides"


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a language, without their indentation; an empty language for commands."""
    text = (GUIDES / page).read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def commands(page: str, folder: Path) -> Iterator[str]:
    """Command lines, with `/data` moved into a folder."""
    for block in blocks(page, ""):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield moved(line, folder)


def moved(text: str, folder: Path) -> str:
    """Text with the paths below `/data` in a folder; `/data/local-files` is a part of a URL."""
    return re.sub(r"/data/(?!local-files)", f"{folder}/", text)
