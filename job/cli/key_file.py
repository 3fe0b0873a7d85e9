"""A list of keys as `--input_list` takes it, written whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import TracebackType

from job.errors import UsageError

logger = logging.getLogger(__name__)


class KeyList:
    """Writes keys one a line, each once where equal ones follow each other; the file appears when the block ends well.

    A key with a line end in it cannot stand in such a list: it is left out with a warning.
    """

    def __init__(self, path: str) -> None:
        """Make sure that it can be written, before hours of work.

        Raises:
            UsageError: It cannot.
        """
        self._path = Path(path)
        self._partial = Path(f"{path}.{os.getpid()}.part")
        self._last: str | None = None
        try:
            self._stream = self._partial.open("w", encoding="utf-8", newline="\n")
        except OSError as exc:
            raise self._error(exc) from exc

    def __enter__(self) -> KeyList:
        """Nothing is left to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the list in its place, or after an error remove what there is of it."""
        try:
            self._stream.close()
            if kind is None:
                self._partial.replace(self._path)
        except OSError as exc:
            raise self._error(exc) from exc
        finally:
            self._partial.unlink(missing_ok=True)

    def add(self, key: str) -> None:
        """One more key.

        Raises:
            UsageError: The list cannot be written.
        """
        if key == self._last:
            return
        self._last = key
        if "\n" in key or "\r" in key:
            logger.warning("%r has a line end in its name and cannot be listed: rename it", key)
            return
        try:
            self._stream.write(f"{key}\n")
        except OSError as exc:
            raise self._error(exc) from exc

    def _error(self, exc: OSError) -> UsageError:
        return UsageError(f"--list {self._path} cannot be written: {exc.strerror}. Give another file")
