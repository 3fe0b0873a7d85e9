"""Inputs whose output files would have one name on a file system that folds names (case, Unicode normalization)."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
import unicodedata
from pathlib import Path

from job.storage.keys import ordered, printable, stem_of
from job.storage.local.probe import names_meet, probe_file_system
from job.storage.local.store import LocalStore
from job.storage.store import Store

_DIGEST_BYTES = 16


class OutputNames:
    """Remembers the inputs of a plan by a digest of their folded names; on disk, so memory stays bounded."""

    def __init__(self, store: LocalStore) -> None:
        """Open an empty table.

        Args:
            store: The output; folds names.
        """
        self._store = store
        self._folder = tempfile.TemporaryDirectory(prefix="sam3-names-")
        self._table = sqlite3.connect(Path(self._folder.name) / "names.sqlite")
        self._table.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
        self._table.execute("CREATE TABLE names (digest BLOB, key BLOB, PRIMARY KEY (digest, key)) WITHOUT ROWID")

    def problem(self, json_key: str) -> str:
        """Why an input would overwrite the outputs of one that was added before, or an empty string."""
        digest = hashlib.blake2b(ordered(fold(stem_of(json_key))), digest_size=_DIGEST_BYTES).digest()
        for (raw,) in self._table.execute("SELECT key FROM names WHERE digest = ? ORDER BY key", (digest,)):
            earlier = raw.decode("utf-8", "surrogateescape")
            if earlier != json_key and names_meet(self._store, stem_of(earlier), stem_of(json_key)):
                return (
                    f"its outputs would overwrite those of {printable(earlier)}: the file system of the output takes "
                    "both names for one. Rename one input, or give an output that tells them apart"
                )
        self._table.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (digest, ordered(json_key)))
        return ""

    def close(self) -> None:
        """Remove the table."""
        self._table.close()
        self._folder.cleanup()


def open_output_names(store: Store) -> OutputNames | None:
    """A table for an output whose file system folds names; None for any other output."""
    traits = probe_file_system(store)
    if traits is None or not traits.folds_names or not isinstance(store, LocalStore):
        return None
    return OutputNames(store)


def fold(key: str) -> str:
    """A name that is equal for all keys that any file system may take for one; coarser than each of them.

    Case and canonical equivalence are folded (Unicode 15, D145), and the dots and spaces that vfat drops at the
    end of a folder's name.
    """
    folders, slash, name = unicodedata.normalize("NFD", key).upper().rpartition("/")
    stripped = "/".join(part.rstrip(". ") for part in folders.split("/"))
    return unicodedata.normalize("NFD", (stripped + slash + name).casefold())
