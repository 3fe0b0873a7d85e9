"""Secrets that are recognized wherever they come out, and everything a command leaves behind."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import job.redaction
import job.storage.object_store
import job.storage.retry
from job.cli.main import run as run_cli
from job.storage.retry import Retry

_CANARY = re.compile(rb"c4n4ry-[a-z0-9-]*[a-z0-9]")
_NOTHING = re.compile(r"()(?!)")


def canary(place: str) -> str:
    """The secret of a place, as in `c4n4ry-model-url`."""
    return "c4n4ry-" + re.sub(r"[^a-z0-9]+", "-", place.lower()).strip("-")


def canaries_in(*outputs: bytes | str) -> set[str]:
    """The canaries in these outputs and in archives among them."""
    found: set[str] = set()
    for output in outputs:
        for data in _contents(output.encode(errors="surrogateescape") if isinstance(output, str) else output):
            found.update(match.decode() for match in _CANARY.findall(data))
    return found


def _contents(data: bytes) -> Iterable[bytes]:
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def files_of(*folders: Path) -> dict[str, bytes]:
    """Every file below these folders, with its path as content too: names of files may hold a secret."""
    paths = [path for folder in folders if folder.exists() for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): f"{path}\n".encode() + path.read_bytes() for path in paths}


def without_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every secret through, to prove that the test would see it."""
    for name in ("_PASSWORD", "_WEB_USER", "_QUERY"):
        monkeypatch.setattr(job.redaction, name, _NOTHING)


def with_short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that fail are tried for a moment only."""
    monkeypatch.setattr(job.storage.object_store, "Retry", lambda: Retry(timeout_s=0.1))
    monkeypatch.setattr(job.storage.retry, "CREDENTIALS_TIMEOUT_S", 0.1)


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls the command line; gives its exit code, and all that it printed with its termination message."""
    message = tmp_path / "termination-message"
    monkeypatch.setenv("SAM3_TERMINATION_LOG", str(message))

    def called(*arguments: str) -> tuple[int, str]:
        message.write_text("")
        code = run_cli(list(arguments))
        shown = capfd.readouterr()
        return code, shown.out + shown.err + message.read_text()

    return called
