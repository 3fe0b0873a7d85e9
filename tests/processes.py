"""The command line as a user runs it: as a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DATE = "2026-01-31"


def annotate(
    source: Path | str, target: Path | str, *flags: str, wrapper: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the original's command line to its end, inside a wrapping command if there is one."""
    command = [*wrapper, sys.executable, "-m", "job", "--input_top_dir", str(source), "--out_top_dir", str(target)]
    return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def running(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A running Python process, killed at the end of the block; `communicate` reads its standard error."""
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **(environment or {})}, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        if process.stderr is not None and not process.stderr.closed:
            process.communicate()


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.05)


def link_scenes(scenes: Path, folder: Path, count: int) -> Path:
    """Fill a new folder with so many inputs, which are links to the scenes in turn."""
    folder.mkdir()
    pairs = sorted(scenes.rglob("*.json"))
    for number in range(count):
        original = pairs[number % len(pairs)]
        for suffix in (".json", ".jpg"):
            os.link(original.with_suffix(suffix), folder / f"{number:03d}{suffix}")
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """Every file outside `_sam3/`, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "_sam3"
    }


def quiet_results(inputs: dict[str, bytes], folder: Path, *flags: str) -> dict[str, bytes]:
    """Outputs of an undisturbed run on local disk with one thread."""
    for key, data in inputs.items():
        path = folder / "in" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    annotate(folder / "in", folder / "out", "--annotation_date", DATE, "--threads", "1", *flags).check_returncode()
    return results(folder / "out")


def frozen(text: str, *paths: Path) -> str:
    """Output without the times and folders of one test run."""
    for number, path in enumerate(paths):
        text = text.replace(str(path), f"<{number}>")
    text = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - ", "", text, flags=re.MULTILINE)
    return re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", text)
