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
_DECODERS = {"msgspec.convert", "msgspec.json.Decoder"}
_DECODES = {"msgspec.json.decode"}
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


def late_decoders(path: Path) -> Iterator[str]:
    """Decoding by a type that a function names, in modules whose functions run in threads.

    msgspec describes a type when it first decodes it, and a second thread that decodes it meanwhile reads a pointer
    that is not set yet: a segmentation fault (src/msgspec/_core.c of 0.22, `StructInfo_Convert`). A decoder of a module
    describes its type on import.
    """
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for call in ast.walk(function):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            has_type = len(call.args) > 1 or any(one.arg == "type" for one in call.keywords)
            if name in _DECODERS or (name in _DECODES and has_type):
                yield f"{path}:{call.lineno} {name}: make a decoder in the module, outside functions"


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
    findings += [finding for path in tracked("job/*.py", "k8s/*.py", "export/*.py") for finding in late_decoders(path)]
    findings += large_folders(tracked("*.py"))
    findings += [finding for path in tracked("requirements/*.txt") for finding in lock_addresses(path)]
    sys.stderr.write("".join(f"{finding}\n" for finding in findings))
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
