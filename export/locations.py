"""Checkpoints and models at URLs; both pass through a local temporary folder."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from export.hub import is_on_hub
from job.errors import ConfigurationError, ObjectMissingError, ObjectRefusedError, UsageError
from job.model.artifact import MANIFEST_NAME
from job.model.cache import local_path, remote_url
from job.redaction import redact
from job.storage.download import download
from job.storage.open import new_process_id, open_store
from job.storage.store import first_writes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from job.storage.store import Store

_STEMS = {"image_encoder", "grounding", "mask_head", "text_encoder", "text_features", "tokenizer", "reference"}
"""Stems of an artifact's files, which an interrupted export may have left."""
_PROBE = "image_encoder.probe"


@contextmanager
def local_checkpoint(checkpoint: str) -> Iterator[str]:
    """Yield an argument for `load_original`; a checkpoint at a URL is downloaded for the length of the block.

    Raises:
        UsageError: There is no checkpoint at that URL.
        ConfigurationError: The store refuses to read it.
    """
    if checkpoint == "demo" or is_on_hub(checkpoint):
        yield checkpoint
        return
    url = remote_url(checkpoint)
    if url is None:
        yield str(local_path(checkpoint))
        return
    folder, _, name = url.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="sam3-checkpoint-") as scratch:
        path = Path(scratch) / name
        click.echo(f"Fetching {redact(url)} …")
        try:
            download(open_store(folder, new_process_id()), name, path)
        except ObjectMissingError as exc:
            raise UsageError(
                f"--checkpoint {url}: no such file. Give `hub`, `demo`, or the path or URL of a sam3.pt"
            ) from exc
        except ObjectRefusedError as exc:
            raise ConfigurationError(
                f"--checkpoint {url} may not be read: {exc}. Check the credentials and their permissions"
            ) from exc
        yield str(path)


@contextmanager
def local_output(out: str) -> Iterator[Path]:
    """Yield the folder to export to; a model for a URL is uploaded when the block succeeds, its manifest last.

    Raises:
        UsageError: There is a model or something else at that URL.
        ConfigurationError: The store refuses to write it.
    """
    url = remote_url(out)
    if url is None:
        yield local_path(out)
        return
    store = open_store(url, new_process_id())
    _check_target(store)
    with tempfile.TemporaryDirectory(prefix="sam3-export-") as scratch:
        folder = Path(scratch) / "model"
        yield folder
        click.echo(f"Storing {redact(url)} …")
        for path in sorted(folder.iterdir()):
            if path.name != MANIFEST_NAME:
                store.put_file(path.name, path)
        if not store.create(MANIFEST_NAME, (folder / MANIFEST_NAME).read_bytes()):
            raise _taken(url)


def _check_target(store: Store) -> None:
    """Check that the target is empty and writable before the export, which can take an hour."""
    with first_writes(store):
        found = [item.key for item in islice(store.list(), len(_STEMS) * 4)]
        if MANIFEST_NAME in found:
            raise _taken(store.url)
        foreign = [key for key in found if key.partition(".")[0] not in _STEMS]
        if foreign:
            raise UsageError(f"--out {store.url} holds something else, such as {foreign[0]}: give another folder")
        store.put(_PROBE, b"")
        store.delete(_PROBE)


def _taken(url: str) -> UsageError:
    return UsageError(f"--out {url} holds a model, which others may be reading: give another folder")
