"""Where a converter writes: an empty folder or bucket prefix, with files that grow while images are read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from job.errors import ConfigurationError, UsageError
from job.storage.store import PRIVATE_FOLDER, Fetched, Store, first_writes

_COPY_BYTES = 1 << 20


class Destination:
    """Objects of a destination. `put` is thread-safe; files that grow are kept in a local temporary folder.

    Attributes:
        store: The destination.
    """

    def __init__(self, store: Store) -> None:
        """Check that the destination is empty.

        Raises:
            UsageError: It holds objects.
        """
        self.store = store
        found = next(iter(store.list()), None)
        if found is not None:
            raise UsageError(
                f"{store.url} holds files already, such as {found.key}: give an empty folder, because files of an "
                "earlier conversion would count as part of the new one"
            )
        self._folder = tempfile.TemporaryDirectory(prefix="sam3-annotate-convert-")
        self._files: dict[str, IO[bytes]] = {}

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        with first_writes(self.store):
            self.store.put(key, data)

    def copy_from(self, key: str, fetched: Fetched) -> None:
        """Write an object that was read from a store."""
        with first_writes(self.store):
            self.store.copy_from(key, fetched)

    def append(self, name: str, data: bytes) -> None:
        """Append to a growing file; the name is free."""
        with self.scratch_writes():
            self.growing(name).write(data)

    def growing(self, name: str) -> IO[bytes]:
        """A growing file, opened when it is first named."""
        if name not in self._files:
            self._files[name] = self.path(name).open("w+b")
        return self._files[name]

    def path(self, name: str) -> Path:
        """A local path for a growing file."""
        return Path(self._folder.name) / f"{name}.part"

    def put_parts(self, key: str, parts: Iterable[bytes | str]) -> None:
        """Write an object from bytes and from growing files, which are named by strings."""
        path = self.path(key.replace("/", "_") + ".whole")
        with self.scratch_writes(), path.open("wb") as whole:
            for part in parts:
                if isinstance(part, bytes):
                    whole.write(part)
                    continue
                file = self.growing(part)
                file.seek(0)
                while block := file.read(_COPY_BYTES):
                    whole.write(block)
        self.put_path(key, path)

    @contextmanager
    def scratch_writes(self) -> Iterator[None]:
        """Write to the local temporary folder in a block.

        Raises:
            ConfigurationError: Its disk is full, or fails.
        """
        try:
            yield
        except OSError as exc:
            raise ConfigurationError(
                f"the temporary folder {self._folder.name} cannot be written ({exc.strerror or exc}): set TMPDIR to a "
                "folder on a larger disk"
            ) from exc

    def put_path(self, key: str, path: Path) -> None:
        """Write an object from a local file."""
        with first_writes(self.store):
            self.store.put_file(key, path)
        path.unlink(missing_ok=True)

    def __enter__(self) -> Destination:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            with suppress(OSError):  # of a full disk; what is complete is flushed before
                file.close()
        self._folder.cleanup()
        self.store.close()
        if "://" not in self.store.url:
            with suppress(OSError):  # a local store keeps temporary files there; it holds nothing else here
                (Path(self.store.url) / PRIVATE_FOLDER).rmdir()
