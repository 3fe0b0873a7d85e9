"""Compiled graphs in the model cache: the next process loads them instead of compiling the graphs again.

    <cache>/openvino/<key>/<number>.blob        compiled graphs; OpenVINO gives the names
    <cache>/openvino/<key>/files.json           size and sha256 of each of them
    <cache>/openvino/<key>.<random>.partial/    being written; renamed when it is complete

OpenVINO loads a compiled graph whose bytes have changed without an error and computes other numbers with it. So each
file is compared with `files.json` before it is used, and a folder that does not agree is made again.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from job.model.artifact import FileEntry, file_entry
from job.model.cache import default_cache

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

_FOLDER = "openvino"
_FILES = "files.json"
_ENTRIES = msgspec.json.Decoder(dict[str, FileEntry])
_PARTIAL = ".partial"
_ABANDONED_AFTER_S = 3600.0
"""A folder that has been incomplete for so long belongs to a process that was stopped."""
_SIZE_FACTOR, _STRUCTURE_BYTES = 1.1, 16 << 20
"""Compiled graphs hold the weights once and the structure of the graph. The embedded model's take 2.1 times 3 MB."""


class CompiledKey(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that compiled graphs depend on.

    Attributes:
        artifact: Digest of the artifact's manifest; empty for a draft, whose graphs are not kept.
        runtime: Name and version of the library.
        instruction_set: See `job.model.processor.instruction_set`.
        threads: Threads inside one operator.
        shapes: What one call computes.
    """

    artifact: str
    runtime: str
    instruction_set: str
    threads: int
    shapes: str = "one image, one prompt; apart what depends on the image alone; channels last; attention whole"

    @property
    def folder_name(self) -> str:
        """sha256 of the key as JSON, in hex."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


@contextmanager
def compiled_graphs(cache: Path | None, key: CompiledKey, graph_bytes: Sequence[int]) -> Iterator[Path | None]:
    """Give OpenVINO a folder to load compiled graphs from, or to store them in while the block runs.

    A cache that cannot be read or written, and a disk without room, are no error: the graphs are compiled again then.

    Args:
        cache: The model cache, or None for the default.
        key: Names the folder.
        graph_bytes: Size of the files of each graph that is compiled in the block, in bytes.

    Yields:
        The folder for OpenVINO's `CACHE_DIR`, or None to compile without a cache.
    """
    if not key.artifact:
        yield None
        return
    try:
        root = (cache or default_cache()) / _FOLDER
    except RuntimeError:  # this user has no home folder
        yield None
        return
    complete = root / key.folder_name
    if _is_intact(complete):
        yield complete
        return
    partial = _new_partial(root, complete, int(sum(graph_bytes) * _SIZE_FACTOR) + _STRUCTURE_BYTES)
    try:
        yield partial
        if partial is not None:
            _publish(partial, complete, len(graph_bytes))
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _is_intact(folder: Path) -> bool:
    """Whether a folder holds exactly the files that it was published with."""
    try:
        entries = _ENTRIES.decode((folder / _FILES).read_bytes())
        return bool(entries) and _entries_of(folder) == entries
    except (OSError, msgspec.DecodeError):
        return False


def _entries_of(folder: Path) -> dict[str, FileEntry]:
    return {path.name: file_entry(path) for path in folder.iterdir() if path.name != _FILES}


def _new_partial(root: Path, complete: Path, need: int) -> Path | None:
    """Make an empty folder beside `complete`, and remove what cannot be used; None if there is no room."""
    partial = complete.with_name(f"{complete.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        if complete.exists():
            logger.warning("The compiled model %s is damaged: it is made again", complete)
            shutil.rmtree(complete)
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        free = shutil.disk_usage(root).free
        if free < need:
            logger.info(
                "The compiled model is not kept: %s has %d MB free, it takes up to %d", root, free >> 20, need >> 20
            )
            return None
        partial.mkdir()
    except OSError as exc:
        logger.info("The compiled model cannot be kept in %s: %s", root, exc.strerror)
        return None
    return partial


def _remove_abandoned(root: Path) -> None:
    oldest_s = time.time() - _ABANDONED_AFTER_S
    for path in root.glob(f"*{_PARTIAL}"):
        with suppress(FileNotFoundError):  # another process removes it too
            if path.stat().st_mtime < oldest_s:
                shutil.rmtree(path, ignore_errors=True)


def _publish(partial: Path, complete: Path, graphs: int) -> None:
    """Rename a folder with all graphs; another process may have been faster.

    OpenVINO removes a file that it could not write to its end, and raises no error.
    """
    try:
        entries = _entries_of(partial)
        if len(entries) < graphs:
            written = (len(entries), graphs, complete.parent)
            logger.info("The compiled model is not kept: OpenVINO wrote %d of %d graphs to %s", *written)
            return
        (partial / _FILES).write_bytes(msgspec.json.encode(entries))
        partial.rename(complete)
    except OSError as exc:
        logger.info("The compiled model is not kept in %s: %s", complete, exc.strerror)
