"""The documentation: links, commands, paths and generated pages are right, and the words are the field's."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import msgspec
import pytest

from job.model.artifact import FileEntry, GraphSpec, Manifest, ParityFigures, TensorSpec, Tolerance
from job.plan.plan import Plan, PlannedInput, PlannedShard, PlanPart
from job.run.heartbeat import Beat
from job.run.journal import ResultRow
from job.run.spec import RunEnd, RunSpec
from job.worker.shards import FailedInput, Marker

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
}
GENERATED = {"docs/reference/flags.md", "docs/reference/exit-codes.md"}
"""Their words come from the code."""
LONGEST_README = 120
LARGEST_IMAGE_BYTES = 150_000

WORDS_TO_AVOID = (
    # Sentences and idioms
    r"labelling by hand",
    r"the same command (goes on|continues)",
    r"goes? on with",
    r"a toy\b",
    r"in silence",
    r"nothing left to do",
    r"that cannot be meant",
    r"nobody foresaw|unforeseen",
    r"with a sentence when",
    r"nothing has moved",
    r"you see \| do",
    r"world that fails",
    r"booked? on",
    r"no circle to wait",
    r"wakes up",
    r"beats (on|over)",
    r"(who|whoever) comes second",
    r"thread conducts|conducts the",
    r"refuses this user",
    r"what they may do",
    r"sends no parts of files",
    r"is not of this version",
    r"looks dead",
    r"the first stays",
    r"hindrances?",
    r"gets on\b",
    # Identifiers of old, as whole words
    r"Nobody(?! )",
    r"Pulse",
    r"run_known",
    r"conduct_flags",
    r"(annotating|building|ending|planning|cleaning|looking)\.py",
    r"_?Foreman",
    r"_Teller",
    r"_LostForemanError",
    r"_(bury|hand_out|take_back|blame|book)\b",
    r"is_careful|is_suspect",
    r"own_shards|marked_among",
    r"EarlyEnd",
    r"count_widows",
    r"put_fetched",
    r"drop_if_empty",
    r"displaced_by|heirs",
    r"quantise\.py|wrappers\.py|places\.py",
    r"MOST_RESTARTS|LONGEST_PAUSE_S|GIVE_UP_S",
)
"""What a reader would not search for; the field's terms take their place."""

NAMED_AS_FOLDERS = {"export/demo_model/scenes", "export/demo_model/training"}

STORED: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "docs/reference/run-folder.md": (
        RunSpec, Plan, PlanPart, PlannedShard, PlannedInput, ResultRow, Marker, FailedInput, Beat, RunEnd,
    ),
    "docs/reference/artifact-manifest.md": (Manifest, FileEntry, GraphSpec, TensorSpec, ParityFigures, Tolerance),
}  # fmt: skip


def load_generator() -> ModuleType:
    path = DOCS / "reference" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


def test_the_measured_part_of_the_performance_page_is_that_of_its_json_files() -> None:
    command = [sys.executable, str(DOCS / "measurements" / "generate.py"), "--check"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert completed.returncode == 0, completed.stderr


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def code_lines(text: str) -> Iterator[str]:
    """Lines of fenced blocks, those that a backslash continues in one."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()


def broken_links(page: str, text: str) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert list(broken_links(page, PAGES[page])) == []


@pytest.mark.parametrize("page", sorted(set(PAGES) - GENERATED))
def test_words_are_the_terms_of_the_field(page: str) -> None:
    found = [match[0] for word in WORDS_TO_AVOID for match in re.finditer(rf"\b(?:{word})", PAGES[page])]
    assert found == []


def test_every_page_is_linked_from_the_index() -> None:
    linked = {
        (DOCS / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)]+)\)", PAGES["docs/README.md"])
    }
    pages = {(ROOT / page).resolve() for page in PAGES if page.startswith("docs/")}
    assert pages - linked == {(DOCS / "README.md").resolve()}


def test_the_readme_is_short_and_has_one_small_picture() -> None:
    text = PAGES["README.md"]
    assert text.count("\n") <= LONGEST_README
    (image,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert (ROOT / image).stat().st_size < LARGEST_IMAGE_BYTES


def test_the_generated_reference_is_up_to_date() -> None:
    for name, page in GENERATOR.PAGES.items():
        assert (DOCS / "reference" / name).read_text(encoding="utf-8") == page(), (
            "run python docs/reference/generate.py"
        )


def test_a_page_that_is_out_of_date_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(GENERATOR, "FOLDER", tmp_path)
    assert GENERATOR.main(["--check"]) == 1
    assert GENERATOR.main([]) == 0
    assert GENERATOR.main(["--check"]) == 0
    (tmp_path / "flags.md").write_text("old", encoding="utf-8")
    assert GENERATOR.main(["--check"]) == 1


def unknown_parts(line: str, commands: dict[str, click.Command]) -> Iterator[str]:
    """What a documented command line names that the command line does not have."""
    for call in re.findall(r"(?:^|[\s(]|bin/)(?:sam3-annotate|python -m job)(?= )([^#|\n>]*)", line):
        words = shlex.split(call.replace("…", ""))
        name = words[0] if words and words[0] in commands else "annotate"
        if words and not words[0].startswith("-") and words[0] not in commands:
            yield f"command {words[0]}"
        known = {flag for option in commands[name].params for flag in option.opts} | {"--help"}
        yield from (f"{name} {word}" for word in words if word.startswith("-") and word.partition("=")[0] not in known)


@pytest.mark.parametrize("page", sorted(set(PAGES) - GENERATED))
def test_commands_and_flags_exist(page: str) -> None:
    commands = dict(GENERATOR.commands())
    lines = [line for line in code_lines(PAGES[page]) if not line.lstrip().startswith(("pip ", "#"))]
    assert [part for line in lines for part in unknown_parts(line, commands)] == []


def test_an_unknown_flag_is_found() -> None:
    commands = dict(GENERATOR.commands())
    assert list(unknown_parts("env/bin/sam3-annotate show x.json --outt y", commands)) == ["show --outt"]
    assert list(unknown_parts("sam3-annotate shwo x.json", commands)) == ["command shwo"]


def named_paths(page: str) -> set[str]:
    """Paths of the repository that a page names; those of the reliability table are below tests/."""
    if page == "docs/reliability.md":
        return {f"tests/{name}" for name in re.findall(r"`([\w/]+/test_\w+\.py)", PAGES[page])}
    tops = r"job|export|k8s|tests|charts|docs|requirements|\.ci"
    return set(re.findall(rf"(?<![\w/.<-])((?:{tops})/[\w./-]+\w)", PAGES[page]))


@pytest.mark.parametrize("page", sorted(set(PAGES) - GENERATED))
def test_paths_and_targets_exist(page: str) -> None:
    assert [name for name in sorted(named_paths(page)) if not (ROOT / name).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", PAGES[page])) <= targets


def names_of_tests(file: Path) -> str:
    return " ".join(re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", sorted(set(PAGES) - GENERATED))
def test_selected_tests_exist(page: str) -> None:
    """`pytest PATH -k WORD` selects something: a file or a test whose name holds the word."""
    missing = []
    for path, word in re.findall(r"`?(?:pytest )?([\w/]+(?:/test_\w+\.py)?)(?: -m slow)? -k (\w+)", PAGES[page]):
        location = ROOT / path if path.startswith("tests/") else ROOT / "tests" / path
        files = [location] if location.is_file() else sorted(location.rglob("test_*.py"))
        if not any(word in file.stem or word in names_of_tests(file) for file in files):
            missing.append(f"{path} -k {word}")
    assert missing == []


@pytest.mark.parametrize(("page", "structs"), STORED.items(), ids=STORED)
def test_every_stored_field_is_described(page: str, structs: tuple[type[msgspec.Struct], ...]) -> None:
    names = {field for struct in structs for field in struct.__struct_fields__}
    assert sorted(name for name in names if f"`{name}`" not in PAGES[page]) == []


def module_map() -> dict[str, set[str]]:
    """Modules that the map of docs/concepts/architecture.md names, by folder."""
    section = PAGES["docs/concepts/architecture.md"].partition("## Module map")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(.*?)` \| (.*?) \|", section, re.MULTILINE)
    found = {folder: set(re.findall(r"`(\w+)`", names)) for folder, names in rows}
    return {folder: names for folder, names in found.items() if (ROOT / folder).is_dir()}


def test_the_module_map_is_that_of_the_code() -> None:
    named = module_map()
    listed = subprocess.run(["git", "ls-files", "job", "k8s", "export"], cwd=ROOT, capture_output=True, text=True)
    modules: dict[str, set[str]] = {}
    for path in map(Path, listed.stdout.splitlines()):
        if path.suffix == ".py" and path.stem not in {"__init__", "__main__"} and str(path.parent) != "job":
            modules.setdefault(str(path.parent), set()).add(path.stem)
    modules = {folder: names for folder, names in modules.items() if folder not in NAMED_AS_FOLDERS}
    missing = {folder: names - named.get(folder, set()) for folder, names in modules.items()}
    stale = {folder: names - modules.get(folder, set()) for folder, names in named.items()}
    assert {folder: names for folder, names in missing.items() if names} == {}, "not in the module map"
    assert {folder: names for folder, names in stale.items() if names} == {}, "in the module map, not in the code"
