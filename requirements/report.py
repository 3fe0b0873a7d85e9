"""Write docs/reference/licences.md: name, version and licence of every locked package.

python requirements/report.py            asks the package index for the metadata, downloads no wheel that has it
python requirements/report.py --check    compares names and versions with the locks, offline
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reference" / "licences.md"
LOCKS = ("cpu", "gpu", "export", "image", "test", "dev")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\]+)", re.MULTILINE)
_HEAD = """# Licences of the locked packages

Written by `python requirements/report.py` from the metadata of the packages; a test compares names and versions with
the locks in `requirements/`. The code of this project is under Apache-2.0. The images `cpu`, `gpu` and `export` contain
the locks of the same names; `image` builds them; `test` and `dev` are for development. SAM 3's weights have a licence
of their own.

| Package | Version | Licence | Locks |
|---|---|---|---|
"""


def pins(lock: str) -> dict[str, str]:
    """Version by normalized name (PEP 503) of a lock."""
    text = (HERE / f"{lock}.txt").read_text(encoding="utf-8")
    return {normalized(name): version for name, version in _PIN.findall(text)}


def normalized(name: str) -> str:
    """`huggingface_hub` to `huggingface-hub`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licences(lock: str) -> dict[str, str]:
    """Licence by normalized name, from an installation that pip only plans."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
        subprocess.run([*command, "--report", report, "--requirement", HERE / f"{lock}.txt"], check=True)
        planned = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {normalized(one["metadata"]["name"]): licence_of(one["metadata"]) for one in planned}


def licence_of(metadata: dict[str, Any]) -> str:
    """The expression (PEP 639), else the classifiers, else the first line of the old field."""
    if metadata.get("license_expression"):
        return str(metadata["license_expression"])
    classifiers = [line.rpartition(" :: ")[2] for line in metadata.get("classifier", []) if line.startswith("License")]
    named = [name for name in classifiers if name != "OSI Approved"]
    return ", ".join(named) or (metadata.get("license") or "not stated").strip().splitlines()[0][:60]


def page() -> str:
    """The whole page."""
    rows: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for lock in LOCKS:
        found = licences(lock)
        for name, version in pins(lock).items():
            rows.setdefault((name, version), (found[name], []))[1].append(lock)
    lines = [
        f"| {name} | {version} | {text} | {', '.join(locks)} |"
        for (name, version), (text, locks) in sorted(rows.items())
    ]
    return _HEAD + "\n".join(lines) + "\n"


def missing() -> list[str]:
    """Locked packages that the page does not list, and listed ones that are not locked."""
    locked = {(name, version) for lock in LOCKS for name, version in pins(lock).items()}
    text = PAGE.read_text(encoding="utf-8")
    listed = {(name, version) for name, version in re.findall(r"^\| ([a-z0-9-]+) \| ([^ |]+) \|", text, re.MULTILINE)}
    return [f"{name}=={version}" for name, version in sorted(locked ^ listed)]


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    if missing():
        raise SystemExit(f"{PAGE.name} differs from the locks in {', '.join(missing())}: run python {sys.argv[0]}")
