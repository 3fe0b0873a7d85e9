"""A model at a URL, and its copy on this machine.

    <cache>/<sha256 of manifest.json>/              a whole model, checked
    <cache>/<sha256 of manifest.json>.partial/      one on its way: checked files, `<file>.partial~` of one that is not
    <cache>/<sha256 of manifest.json>.lock          held by the process that fetches

A process that ends in the middle leaves what it has; the next one, in whatever process, goes on behind its last byte.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import strip_protocol

from job.errors import (
    ArtifactError,
    ConfigurationError,
    ObjectMissingError,
    ObjectRefusedError,
    StorageError,
    UsageError,
)
from job.model.artifact import (
    MANIFEST_NAME,
    Artifact,
    FileEntry,
    checked_digest,
    damaged_file,
    decode_manifest,
    file_entry,
    open_artifact,
)
from job.storage.download import download
from job.storage.open import new_process_id, normalize_url, open_store, protocol_of
from job.storage.store import Store
from job.system.watchdog import OnProgress

logger = logging.getLogger(__name__)

LARGEST_MANIFEST_BYTES = 16 << 20
_LOCK_POLL_S = 0.5
_TRIES = 2


@dataclass(frozen=True)
class RemoteModel:
    """A model that has to be fetched before it is used.

    Attributes:
        artifact: What it is, and the folder where it will be.
        store: Where it is.
        raw_manifest: Its manifest, as it is stored.
    """

    artifact: Artifact
    store: Store
    raw_manifest: bytes

    def fetch(self, on_progress: OnProgress = lambda: None) -> None:
        """Make sure that the whole model is in its folder; of several processes with one cache one fetches it.

        Args:
            on_progress: Told of every part that has come.

        Raises:
            ArtifactError: A file is missing or damaged where it comes from.
            ConfigurationError: The cache cannot be written.
            StorageError: Out of reach, or no space left in the cache.
        """
        if self._is_there():
            return
        folder = self.artifact.folder
        with _cache_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_name(f"{folder.name}.lock"), on_progress):
                if not self._is_there():
                    self._fill(on_progress)

    def _is_there(self) -> bool:
        folder = self.artifact.folder
        if not folder.is_dir():
            return False
        try:
            open_artifact(folder, self.artifact.digest)
        except ArtifactError:
            logger.warning("The model in %s is damaged: fetching it again", folder)
            return False
        return True

    def _fill(self, on_progress: OnProgress) -> None:
        folder, files = self.artifact.folder, self.artifact.manifest.files
        partial = folder.with_name(f"{folder.name}.partial")
        partial.mkdir(exist_ok=True)
        megabytes, begun_s = sum(entry.size for entry in files.values()) / 1e6, time.monotonic()
        logger.info("Fetching model %s, %.1f MB, into %s", self.store.url, megabytes, folder)
        for name, entry in files.items():
            if not (partial / name).is_file():
                self._obtain(name, entry, partial, on_progress)
        (partial / MANIFEST_NAME).write_bytes(self.raw_manifest)
        if folder.exists():  # damaged since it was fetched
            shutil.rmtree(folder)
        partial.rename(folder)
        logger.info("Model fetched in %.0f s", time.monotonic() - begun_s)

    def _obtain(self, name: str, entry: FileEntry, folder: Path, on_progress: OnProgress) -> None:
        """One file, checked; what is there of it may be damaged, so that it is fetched a second time."""
        partial = folder / f"{name}.partial~"  # no manifest may name a file like this
        for _ in range(_TRIES):
            with _model_errors(self.store.url):
                download(self.store, name, partial, size=entry.size, on_progress=on_progress)
            got = file_entry(partial)
            if got == entry:
                partial.rename(folder / name)
                return
            partial.unlink()
            logger.warning("%s/%s came damaged: %d bytes, sha256 %s", self.store.url, name, got.size, got.sha256)
        raise damaged_file(f"{self.store.url}/{name}", got, entry, "Copy the model there again")


def remote_url(model: str) -> str | None:
    """The URL of a model that has to be fetched, or None for a folder of this machine."""
    return None if protocol_of(model) in {"file", "local"} else model.rstrip("/")


def local_path(model: str) -> Path:
    """Path of a model that is a folder, or a file:// URL."""
    return Path(strip_protocol(normalize_url(model)) if "://" in model else model)


def open_remote_model(
    url: str, expected_digest: str | None, cache: Path, storage_options: Mapping[str, Any] | None = None
) -> RemoteModel:
    """Read the manifest; nothing else is fetched yet.

    Args:
        url: Of the model's folder.
        expected_digest: sha256 of `manifest.json` in hex, or None to take any.
        cache: Folder of copies.
        storage_options: Of the fsspec driver.

    Raises:
        ArtifactError: No model there, one of a format this version does not know, or another than the one pinned.
    """
    store = open_store(url, new_process_id(), storage_options)
    with _model_errors(url):
        raw = store.read_range(MANIFEST_NAME, 0, LARGEST_MANIFEST_BYTES)
    digest = checked_digest(raw, url, expected_digest)
    manifest = decode_manifest(raw, url)
    artifact = Artifact(cache.absolute() / digest, manifest, digest, pinned=expected_digest is not None)
    return RemoteModel(artifact, store, raw)


def default_cache() -> Path:
    """Where copies lie when no folder is given, by the XDG Base Directory Specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "sam3-annotate" / "models"


@contextmanager
def _locked(path: Path, on_progress: OnProgress) -> Iterator[None]:
    """Hold a lock that goes with the process; another's work counts as a step, it has a watcher of its own."""
    with path.open("w") as stream:
        waits = 0
        while not _try_lock(stream.fileno()):
            if waits == 0:
                logger.info("Another process is fetching the model: waiting for it")
            waits += 1
            on_progress()
            time.sleep(_LOCK_POLL_S)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _model_errors(url: str) -> Iterator[None]:
    """Whatever every worker would see is the model's fault, not the storage's."""
    try:
        yield
    except ObjectMissingError as exc:
        hint = "Give the folder that `sam3-annotate export` wrote"
        raise ArtifactError(f"no model at {url}, or not a whole one: {exc}. {hint}") from exc
    except ObjectRefusedError as exc:
        raise ArtifactError(f"model {url} may not be read: {exc}. Check the credentials and what they may do") from exc
    except UsageError as exc:
        raise ArtifactError(f"no model at {url}: {exc}") from exc


@contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(f"no space left for the model in {cache}: free some, or give --model_cache") from exc
        raise ConfigurationError(
            f"the model cannot be kept in {cache}: {exc.strerror}. Give --model_cache a folder that can be written"
        ) from exc
