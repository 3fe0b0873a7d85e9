"""The file of own classes (`--classes`): YAML, decoded strictly; each mistake is named with its line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NoReturn, cast

from job.errors import ObjectError, UsageError
from job.rules.rules import ClassRule, OverlapRule, PassengerRule, Rules, default_passengers
from job.storage.open import Address, locate_file, new_process_id

_TAG = "tag:yaml.org,2002:"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_SEPARATORS = ",;="
"""Characters that separate names in flags such as --classes A,B and --min_score A=0.5 of `convert`."""


@dataclass(frozen=True)
class ClassesFile:
    """A decoded file.

    Attributes:
        rules: What it says.
        sha256: Digest of its bytes.
        name: Its path or URL.
        lines: Line of each prompt, from 1.
        has_default_passengers: Whether the file leaves the passenger rule to the names of the classes.
    """

    rules: Rules
    sha256: str
    name: str
    lines: Mapping[str, int]
    has_default_passengers: bool


def read_classes_file(path: str, like: Address, min_score: float) -> ClassesFile:
    """Read and decode a file.

    Args:
        path: Path or URL; on the same kind of storage as `like` it is opened with the same options.
        like: Address of the input.
        min_score: Threshold of classes that give none.

    Raises:
        UsageError: There is no such file, or it has a mistake.
        StorageError: It is out of reach.
    """
    address, key = locate_file(path, like)
    if not key:
        raise UsageError(f"--classes {path} is a folder: give a YAML file")
    try:
        raw = address.open(new_process_id()).read(key)
    except ObjectError as exc:
        raise UsageError(f"--classes {path} cannot be read: {exc}") from exc
    return parse_classes_file(raw, path, min_score)


def parse_classes_file(raw: bytes, name: str, min_score: float) -> ClassesFile:
    """Decode a file.

    Args:
        raw: Its bytes.
        name: Its path or URL, for messages.
        min_score: Threshold of classes that give none.

    Raises:
        UsageError: It has a mistake; the message names the line.
    """
    parser = _Parser(name, min_score)
    rules = parser.rules(_compose(raw, name))
    return ClassesFile(
        rules=rules,
        sha256=hashlib.sha256(raw).hexdigest(),
        name=name,
        lines=MappingProxyType(parser.lines),
        has_default_passengers=parser.has_default_passengers,
    )


def _compose(raw: bytes, name: str) -> Any:
    """The tree of nodes; nodes have their lines, and no value is converted."""
    import yaml

    try:
        return yaml.compose(raw.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as exc:
        raise UsageError(f"--classes {name} is not UTF-8: give a YAML file") from exc
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark is not None else 1
        raise UsageError(f"--classes {name}, line {line}: this is not YAML: {exc.problem or exc.context}") from exc
    except yaml.YAMLError as exc:
        raise UsageError(f"--classes {name} is not YAML: {exc}") from exc


class _Parser:
    """Decodes the tree of one file."""

    def __init__(self, name: str, min_score: float) -> None:
        self._name = name
        self._min_score = min_score
        self.lines: dict[str, int] = {}
        self.has_default_passengers = False
        self._classes_at: dict[str, Any] = {}

    def rules(self, root: Any) -> Rules:
        if root is None:
            raise UsageError(f"--classes {self._name} is empty: give a list `classes`")
        fields = self._fields(root, "file", ("classes", "passengers", "overlap"), required=("classes",))
        classes = self._classes(fields["classes"])
        self.has_default_passengers = "passengers" not in fields
        if self.has_default_passengers:
            passengers = self._default_passengers()
        else:
            passengers = self._passengers(fields["passengers"])
        overlap = self._overlap(fields["overlap"]) if "overlap" in fields else OverlapRule()
        return Rules(classes=classes, passengers=passengers, overlap=overlap)

    def _classes(self, node: Any) -> tuple[ClassRule, ...]:
        classes: dict[str, ClassRule] = {}
        for item in self._items(node, "classes"):
            fields = self._fields(item, "class", ("name", "prompts", "min_score", "colour"), required=("name",))
            name = self._class_name(fields["name"])
            for other in classes:
                if other.lower() == name.lower():
                    self._fail(item, f"class {name} repeats class {other} (case does not count): give each class once")
            self._classes_at[name] = item
            classes[name] = ClassRule(
                name=name,
                prompts=self._prompts(fields.get("prompts"), item, name),
                min_score=self._fraction(fields, "min_score", self._min_score),
                colour=self._colour(fields["colour"]) if "colour" in fields else None,
            )
        return tuple(classes.values())

    def _class_name(self, node: Any) -> str:
        name = self._text(node, "name")
        found = next((one for one in name if one in _SEPARATORS or one.isspace() or not one.isprintable()), None)
        if found is not None:
            self._fail(node, f"the class name {name!r} has {found!r}: use letters, digits, - and _")
        return name

    def _prompts(self, node: Any, item: Any, name: str) -> tuple[str, ...]:
        if node is None:
            given = [(item, name.replace("_", " "))]
        elif self._is(node, "str"):
            given = [(node, self._text(node, "prompts"))]
        else:
            given = [(one, self._text(one, "prompt")) for one in self._items(node, "prompts")]
        return tuple(self._prompt(at, text) for at, text in given)

    def _prompt(self, node: Any, text: str) -> str:
        prompt = " ".join(text.split())
        if not prompt.isprintable():
            self._fail(node, f"the prompt {prompt!r} has a control character: use printable ones")
        if ";" in prompt:
            self._fail(node, f"the prompt {prompt!r} has a semicolon: give each prompt as an item of its own")
        for other, line in self.lines.items():
            if other.lower() == prompt.lower():
                self._fail(node, f"the prompt {prompt!r} repeats that of line {line} (case does not count)")
        self.lines[prompt] = _line(node)
        return prompt

    def _colour(self, node: Any) -> str:
        if self._is(node, "null"):
            self._fail(node, "colour is empty: put '#rrggbb' in quotes, because # begins a comment")
        colour = self._text(node, "colour")
        if not _COLOUR.fullmatch(colour):
            self._fail(node, f"colour {colour!r} is not of the form '#rrggbb', such as '#d55e00'")
        return colour.lower()

    def _default_passengers(self) -> PassengerRule | None:
        rule = default_passengers(list(self._classes_at))
        if rule is not None and rule.name in self._classes_at:
            self._fail(
                self._classes_at[rule.name],
                f"class {rule.name} is what a {rule.occupant} in a {rule.container} becomes. Give it another name, or "
                "set passengers: null",
            )
        return rule

    def _passengers(self, node: Any) -> PassengerRule | None:
        if self._is(node, "null"):
            return None
        keys = ("occupant", "container", "name")
        fields = self._fields(node, "passengers", keys, required=keys)
        occupant, container = (self._known(fields[key], key) for key in keys[:2])
        name = self._class_name(fields["name"])
        if occupant == container:
            self._fail(fields["container"], f"occupant and container are both {container}: give two classes")
        if name.lower() in {one.lower() for one in self._classes_at}:
            self._fail(fields["name"], f"{name} is a class already: give the name of what a {occupant} becomes")
        return PassengerRule(occupant=occupant, container=container, name=name)

    def _known(self, node: Any, key: str) -> str:
        name = self._text(node, key)
        if name not in self._classes_at:
            self._fail(node, f"{key} {name!r} is no class of this file: they are {', '.join(self._classes_at)}")
        return name

    def _overlap(self, node: Any) -> OverlapRule:
        fields = self._fields(node, "overlap", ("max_iou", "keep", "across"))
        return OverlapRule(
            max_iou=self._fraction(fields, "max_iou", OverlapRule().max_iou),
            keep=cast(Literal["first", "best"], self._choice(fields, "keep", ("first", "best"))),
            across=cast(Literal["all", "class"], self._choice(fields, "across", ("all", "class"))),
        )

    def _choice(self, fields: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
        if key not in fields:
            return allowed[0]
        value = self._text(fields[key], key)
        if value not in allowed:
            self._fail(fields[key], f"{key} {value!r} is none of {', '.join(allowed)}")
        return value

    # Nodes of the tree

    def _fields(self, node: Any, what: str, allowed: tuple[str, ...], required: tuple[str, ...] = ()) -> dict[str, Any]:
        """The values of a mapping by key, each key once and known."""
        if node.id != "mapping":
            self._fail(node, f"the {what} is not a mapping with the keys {', '.join(allowed)}")
        fields: dict[str, Any] = {}
        for key_node, value in node.value:
            key = key_node.value if key_node.id == "scalar" else "(not text)"
            if key not in allowed:
                self._fail(key_node, f"unknown key {key!r} of the {what}: allowed are {', '.join(allowed)}")
            if key in fields:
                self._fail(key_node, f"the key {key} of the {what} is given twice")
            fields[key] = value
        for key in required:
            if key not in fields:
                self._fail(node, f"the {what} has no {key}")
        return fields

    def _items(self, node: Any, what: str) -> list[Any]:
        if node.id != "sequence" or not node.value:
            self._fail(node, f"{what} is not a list with at least one item")
        return list(node.value)

    def _text(self, node: Any, what: str) -> str:
        if not self._is(node, "str"):
            if node.id == "scalar" and node.value:
                self._fail(node, f"{what} {node.value!r} is not text: put it in quotes")
            self._fail(node, f"{what} is empty or not text")
        if not node.value.strip():
            self._fail(node, f"{what} is empty")
        return str(node.value)

    def _fraction(self, fields: Mapping[str, Any], key: str, default: float) -> float:
        if key not in fields:
            return default
        node = fields[key]
        shown = node.value if node.id == "scalar" else "a list or mapping"
        try:
            value = float(shown) if self._is(node, "int", "float") else -1.0
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            self._fail(node, f"{key} {shown!r} is not a number from 0 to 1")
        return value

    def _is(self, node: Any, *tags: str) -> bool:
        return node.id == "scalar" and node.tag in {_TAG + tag for tag in tags}

    def _fail(self, node: Any, problem: str) -> NoReturn:
        raise UsageError(f"--classes {self._name}, line {_line(node)}: {problem}")


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
