"""Cache of models that are fetched from a URL.

    <cache>/<sha256 of manifest.json>/              a complete, verified model
    <cache>/<sha256 of manifest.json>.partial/      a fetch in progress: verified files, and `<file>.partial~`
    <cache>/<sha256 of manifest.json>.lock          held by the process that fetches
    <cache>/self_checks/                            see `job.model.self_check`

An interrupted fetch leaves its files in place; the next process resumes after the last byte.
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
    """A model that must be fetched before it is used.

    Attributes:
        artifact: The model, with the folder of its copy in the cache.
        store: Source of the files.
        raw_manifest: Bytes of its manifest.
    """

    artifact: Artifact
    store: Store
    raw_manifest: bytes

    def fetch(self, on_progress: OnProgress = lambda: None) -> None:
        """Fetch the model unless the cache has it; of several processes with one cache, one fetches it.

        Args:
            on_progress: Called after each part of a file.

        Raises:
            ArtifactError: A file is missing or damaged at the source.
            ConfigurationError: The cache cannot be written.
            StorageError: The source is unreachable, or the cache has no space left.
        """
        if self._is_cached():
            return
        folder = self.artifact.folder
        with _cache_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_name(f"{folder.name}.lock"), on_progress):
                if not self._is_cached():
                    self._fill(on_progress)

    def _is_cached(self) -> bool:
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
        """Fetch and verify one file; a partial file may be damaged, so a second try starts from nothing."""
        partial = folder / f"{name}.partial~"  # no manifest may name a file like this
        for _ in range(_TRIES):
            with _model_errors(self.store.url):
                download(self.store, name, partial, size=entry.size, on_progress=on_progress)
            got = file_entry(partial)
            if got == entry:
                partial.rename(folder / name)
                return
            partial.unlink()
            logger.warning("%s/%s arrived damaged: %d bytes, sha256 %s", self.store.url, name, got.size, got.sha256)
        raise damaged_file(f"{self.store.url}/{name}", got, entry, "Copy the model there again")


def remote_url(model: str) -> str | None:
    """The URL of a model that must be fetched, or None for a local folder."""
    return None if protocol_of(model) in {"file", "local"} else model.rstrip("/")


def local_path(model: str) -> Path:
    """Path of a model given as a folder or a file:// URL."""
    return Path(strip_protocol(normalize_url(model)) if "://" in model else model)


def open_remote_model(
    url: str, expected_digest: str | None, cache: Path, storage_options: Mapping[str, Any] | None = None
) -> RemoteModel:
    """Read the manifest; other files are fetched by `RemoteModel.fetch`.

    Args:
        url: URL of the model's folder.
        expected_digest: sha256 of `manifest.json` in hex, or None to accept any.
        cache: The cache folder.
        storage_options: Options of the fsspec driver.

    Raises:
        ArtifactError: There is no model, its format version is not supported, or it is not the expected one.
    """
    store = open_store(url, new_process_id(), storage_options)
    with _model_errors(url):
        raw = store.read_range(MANIFEST_NAME, 0, LARGEST_MANIFEST_BYTES)
    digest = checked_digest(raw, url, expected_digest)
    manifest = decode_manifest(raw, url)
    artifact = Artifact(cache.absolute() / digest, manifest, digest, pinned=expected_digest is not None)
    return RemoteModel(artifact, store, raw)


def default_cache() -> Path:
    """The default cache folder, by the XDG Base Directory Specification.

    Raises:
        RuntimeError: This user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "sam3-annotate" / "models"


@contextmanager
def _locked(path: Path, on_progress: OnProgress) -> Iterator[None]:
    """Hold a lock that the kernel releases when the process ends.

    Waiting counts as progress: the process that holds the lock has its own watchdog.
    """
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
    """Map errors that every worker would get to `ArtifactError`."""
    try:
        yield
    except ObjectMissingError as exc:
        hint = "Give the folder that `sam3-annotate export` wrote"
        raise ArtifactError(f"no model at {url}, or an incomplete one: {exc}. {hint}") from exc
    except ObjectRefusedError as exc:
        raise ArtifactError(f"model {url} may not be read: {exc}. Check the credentials and their permissions") from exc
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
