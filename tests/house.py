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
TYPED = re.compile(r"msgspec\.(convert|(json|msgpack|yaml|toml)\.(Decoder|decode))")
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
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {node for function in ast.walk(tree) for part in _body(function) for node in ast.walk(part)}
    calls = {call.func: call for call in ast.walk(tree) if isinstance(call, ast.Call)}
    place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for node in ast.walk(tree):
        if _renames_msgspec(node):
            yield f"{place}:{node.lineno}: import msgspec, and nothing from it"  # type: ignore[attr-defined]
        elif isinstance(node, ast.Attribute) and TYPED.fullmatch(name := ast.unparse(node)):
            call = calls.get(node)
            if name.endswith(".decode") and call is not None and not _names_type(call):
                continue
            if node in late or name.endswith(".decode"):
                yield f"{place}:{node.lineno} {name}: make a decoder in the module, outside functions"


def _body(node: ast.AST) -> list[ast.AST]:
    """What runs when a function is called; nothing for another node."""
    if isinstance(node, ast.Lambda):
        return [node.body]
    return list(node.body) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else []


def _names_type(call: ast.Call) -> bool:
    return len(call.args) > 1 or any(one.arg in {"type", None} for one in call.keywords)


def _renames_msgspec(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(one.name.split(".")[0] == "msgspec" and (one.asname or "." in one.name) for one in node.names)
    is_of_msgspec = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "msgspec"
    return is_of_msgspec and any(not one.name[0].isupper() or one.name == "Decoder" for one in node.names)


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
