"""The file of own classes: what it may say, and the line of each mistake."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from job.errors import UsageError
from job.rules.classes_file import ClassesFile, parse_classes_file, read_classes_file
from job.rules.rules import ClassRule, OverlapRule, PassengerRule, Rules, rules_of_prompts
from job.storage.open import Address
from tests.web import served

WHOLE = """\
classes:
  - name: truck
    prompts: [truck, "pickup  truck", van]
    min_score: 0.55
    colour: "#D55E00"
  - name: driver
    prompts: person
  - name: traffic_cone
passengers: {occupant: driver, container: truck, name: driver_in_truck}
overlap: {max_iou: 0.7, keep: best, across: class}
"""


def parse(text: str) -> ClassesFile:
    return parse_classes_file(text.encode(), "my.yaml", 0.4)


def test_everything_that_a_file_may_say() -> None:
    file = parse(WHOLE)
    assert file.rules == Rules(
        classes=(
            ClassRule(name="truck", prompts=("truck", "pickup truck", "van"), min_score=0.55, colour="#d55e00"),
            ClassRule(name="driver", prompts=("person",), min_score=0.4),
            ClassRule(name="traffic_cone", prompts=("traffic cone",), min_score=0.4),
        ),
        passengers=PassengerRule(occupant="driver", container="truck", name="driver_in_truck"),
        overlap=OverlapRule(max_iou=0.7, keep="best", across="class"),
    )
    assert file.sha256 == hashlib.sha256(WHOLE.encode()).hexdigest()
    assert file.lines == {"truck": 3, "pickup truck": 3, "van": 3, "person": 7, "traffic cone": 8}
    assert file.rules.class_names == ("truck", "driver", "traffic_cone", "driver_in_truck")
    assert msgspec.json.decode(msgspec.json.encode(file.rules), type=Rules) == file.rules


def test_a_file_of_the_default_classes_is_the_default() -> None:
    file = parse("classes: [{name: car}, {name: license_plate}, {name: person}]")
    assert file.rules == rules_of_prompts(("car", "license plate", "person"), 0.4)


@pytest.mark.parametrize(
    ("text", "passengers"),
    [
        ("classes: [{name: car}, {name: person}]", PassengerRule()),
        ("classes: [{name: car}, {name: person}]\npassengers: null", None),
        ("classes: [{name: car}, {name: passenger}, {name: person}]\npassengers:", None),
        ("classes: [{name: Car}, {name: person}]", None),
        ("classes: [{name: person}]", None),
    ],
    ids=["default", "null", "empty", "another case", "no car"],
)
def test_the_passenger_rule(text: str, passengers: PassengerRule | None) -> None:
    assert parse(text).rules.passengers == passengers


BASE = "classes:\n  - name: car\n  - name: person\n"
ONE = "classes:\n  - name: a\n"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (ONE + "    score: 1\n", 3, "unknown key 'score' of the class: allowed are name, prompts, min_score, colour"),
        (BASE + "overlaps: {}\n", 4, "unknown key 'overlaps' of the file"),
        (BASE + "overlap: {iou: 1}\n", 4, "unknown key 'iou' of the overlap"),
        (ONE + "    name: bus\n", 3, "the key name of the class is given twice"),
        ("classes:\n  - name: car\n\n  - name: car\n", 4, "class car repeats class car"),
        ("classes:\n  - name: car\n  - name: Car\n", 3, "class Car repeats class car"),
        ('classes:\n  - name: ""\n', 2, "name is empty"),
        ("classes:\n  - name:\n", 2, "name is empty or not text"),
        ("classes:\n  - prompts: car\n", 2, "the class has no name"),
        ("classes:\n  - name: no\n", 2, "name 'no' is not text: put it in quotes"),
        ("classes:\n  - name: 7\n", 2, "name '7' is not text: put it in quotes"),
        ("classes:\n  - name: my car\n", 2, "the class name 'my car' has ' '"),
        ("classes:\n  - name: a=b\n", 2, "the class name 'a=b' has '='"),
        ('classes:\n  - name: "a\\x01"\n', 2, r"the class name 'a\x01' has '\x01'"),
        (ONE + '    prompts: ["a\\x07"]\n', 3, r"the prompt 'a\x07' has a control character"),
        ("classes:\n  - car\n", 2, "the class is not a mapping with the keys name, prompts"),
        ("classes: []\n", 1, "classes is not a list with at least one item"),
        ("classes: {car: {}}\n", 1, "classes is not a list"),
        ("overlap: {}\n", 1, "the file has no classes"),
        ("- name: car\n", 1, "the file is not a mapping"),
        (ONE + "    prompts: []\n", 3, "prompts is not a list with at least one item"),
        (ONE + "    prompts:\n      - x\n      - ''\n", 5, "prompt is empty"),
        (ONE + "    prompts:\n      - x\n      - y;z\n", 5, "the prompt 'y;z' has a semicolon"),
        (ONE + "    prompts: [x, X]\n", 3, "the prompt 'X' repeats that of line 3"),
        (ONE + "    prompts: x\n  - name: x\n", 4, "the prompt 'x' repeats that of line 3"),
        (ONE + "    min_score: 40\n", 3, "min_score '40' is not a number from 0 to 1"),
        (ONE + "    min_score: high\n", 3, "min_score 'high' is not a number"),
        (ONE + "    min_score: .nan\n", 3, "min_score '.nan' is not a number"),
        (ONE + "    colour: red\n", 3, "colour 'red' is not of the form '#rrggbb'"),
        (ONE + "    colour: #ff0000\n", 3, "# begins a comment"),
        (BASE + "passengers: {occupant: person}\n", 4, "the passengers has no container"),
        (BASE + "passengers: {occupant: Person, container: car, name: x}\n", 4, "they are car, person"),
        (BASE + "passengers: {occupant: car, container: car, name: x}\n", 4, "occupant and container are both car"),
        (BASE + "passengers: {occupant: person, container: car, name: Car}\n", 4, "Car is a class already"),
        (BASE + "  - name: passenger\n", 4, "class passenger is what a person in a car becomes"),
        (BASE + "overlap: {max_iou: 1.5}\n", 4, "max_iou '1.5' is not a number from 0 to 1"),
        (BASE + "overlap:\n  keep: last\n", 5, "keep 'last' is none of first, best"),
        (BASE + "overlap:\n  across: some\n", 5, "across 'some' is none of all, class"),
        ("classes:\n  - name: [\n", 3, "this is not YAML"),
        ("classes: [*a]\n", 1, "this is not YAML: found undefined alias"),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)
def test_a_mistake_is_named_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert str(raised.value).startswith(f"--classes my.yaml, line {line}: "), raised.value
    assert problem in str(raised.value)


@pytest.mark.parametrize("raw", [b"", b"# nothing\n", b"\xff\xfe", b"classes: \x00"])
def test_what_is_no_file_of_classes(raw: bytes) -> None:
    with pytest.raises(UsageError, match=r"--classes my\.yaml"):
        parse_classes_file(raw, "my.yaml", 0.4)


def test_a_file_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "my classes?.yaml"
    path.write_text(BASE)
    assert read_classes_file(str(path), Address(str(tmp_path)), 0.3).rules == rules_of_prompts(("car", "person"), 0.3)


def test_a_file_is_read_by_url(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(BASE)
    with served(tmp_path) as web:
        file = read_classes_file(f"{web.url}/my.yaml", Address(str(tmp_path)), 0.3)
        assert file.rules == rules_of_prompts(("car", "person"), 0.3)
        with pytest.raises(UsageError, match=r"--classes http.*/none\.yaml cannot be read"):
            read_classes_file(f"{web.url}/none.yaml", Address(str(tmp_path)), 0.3)


@pytest.mark.parametrize("name", ["missing.yaml", ""])
def test_a_missing_file_and_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"--classes .*(cannot be read|is a folder)"):
        read_classes_file(f"{tmp_path}/{name}", Address(str(tmp_path)), 0.4)
