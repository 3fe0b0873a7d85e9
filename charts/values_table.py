"""Generates the table of values in the chart's README from the comments of values.yaml that begin with `# --`.

python charts/values_table.py           write the table
python charts/values_table.py --check   exit with 1 if the table is outdated
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml  # type: ignore[import-untyped]

CHART = Path(__file__).parent / "sam3-annotate"
BEGIN, END = "<!-- begin of values -->", "<!-- end of values -->"
_PIPE = "\\|"
_COMMENT = re.compile(r"^\s*#( --)?\s?(.*)$")


@dataclass(frozen=True)
class Value:
    """One row: a documented value.

    Attributes:
        path: Its keys, joined by dots.
        default: Its default in values.yaml.
        description: The comment above it.
    """

    path: str
    default: object
    description: str

    @property
    def row(self) -> str:
        """The row in Markdown."""
        kind = {"str": "string", "dict": "object"}.get(type(self.default).__name__, type(self.default).__name__)
        default = json.dumps(self.default, ensure_ascii=False)
        cells = (f"`{self.path}`", kind, f"`{default}`", self.description)
        return f"| {' | '.join(cell.replace('|', _PIPE) for cell in cells)} |"


def documented_values(text: str) -> Iterator[Value]:
    """The documented values of a values.yaml, in order.

    Raises:
        ValueError: A value has no comment.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("values.yaml is not a mapping")
    yield from _values_of(root, "", text.splitlines())


def _values_of(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        description = _description_above(lines, key.start_mark.line)
        if description:
            yield Value(path, yaml.SafeLoader("").construct_document(value), description)
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _values_of(value, f"{path}.", lines)
        else:
            raise ValueError(f"{path}: no comment that begins with `# --` above it")


def _description_above(lines: list[str], number: int) -> str:
    """The comment directly above a line, if it begins with `# --`."""
    parts: list[str] = []
    for line in reversed(lines[:number]):
        found = _COMMENT.match(line)
        if found is None:
            return ""
        parts.insert(0, found[2])
        if found[1]:
            return " ".join(parts)
    return ""


def with_table(readme: str, values: list[Value]) -> str:
    """The README with the table of these values.

    Raises:
        ValueError: It has no markers for the table.
    """
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no lines {BEGIN} and {END}")
    rows = ["| Key | Type | Default | Description |", "|---|---|---|---|", *(value.row for value in values)]
    return "\n".join([head + begin, "", *rows, "", end + tail])


def main(arguments: list[str]) -> int:
    """Write or check the table; return the exit status."""
    readme = CHART / "README.md"
    found = readme.read_text(encoding="utf-8")
    expected = with_table(found, list(documented_values((CHART / "values.yaml").read_text(encoding="utf-8"))))
    if "--check" not in arguments:
        readme.write_text(expected, encoding="utf-8")
    elif found != expected:
        sys.stderr.write(f"{readme}: the table does not match values.yaml; run python charts/values_table.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
