"""House rules that no linter checks: lengths of files, functions and folders; names; locks without addresses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LONGEST_FILE, LONGEST_FUNCTION, LARGEST_FOLDER = 400, 60, 15
ROOT = Path(__file__).parent.parent
ADDRESS = re.compile(r"https?://|file://|--index-url|--find-links|@ /")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def long_code(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > LONGEST_FILE:
        yield f"{path.relative_to(ROOT)}: {lines} lines, allowed are {LONGEST_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines, allowed {LONGEST_FUNCTION}"


def lock_addresses(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if ADDRESS.search(line):
            yield f"{path.relative_to(ROOT)}:{number}: an address or a path in a lock"


def large_folders(paths: list[Path]) -> Iterator[str]:
    modules = Counter(path.parent for path in paths if path.name != "__init__.py")
    for folder, count in modules.items():
        if count > LARGEST_FOLDER:
            yield f"{folder.relative_to(ROOT)}: {count} modules, allowed are {LARGEST_FOLDER}"


def main() -> None:
    findings = [finding for path in tracked("*.py") for finding in long_code(path)]
    findings += large_folders(tracked("*.py"))
    findings += [finding for path in tracked("requirements/*.txt") for finding in lock_addresses(path)]
    sys.stderr.write("".join(f"{finding}\n" for finding in findings))
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
