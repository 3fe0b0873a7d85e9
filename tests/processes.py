"""The command line as a user runs it: as a process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def annotate(
    source: Path | str, target: Path | str, *flags: str, wrapper: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the original's command line to its end, inside a wrapping command if there is one."""
    command = [*wrapper, sys.executable, "-m", "job", "--input_top_dir", str(source), "--out_top_dir", str(target)]
    return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=300, check=False)


def results(folder: Path) -> dict[str, bytes]:
    """Every file outside `_sam3/`, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "_sam3"
    }


def frozen(text: str, *paths: Path) -> str:
    """Output without what differs from run to run: times, and the folders of the test."""
    for number, path in enumerate(paths):
        text = text.replace(str(path), f"<{number}>")
    text = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - ", "", text, flags=re.MULTILINE)
    return re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", text)
