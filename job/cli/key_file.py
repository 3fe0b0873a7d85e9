"""A list of keys in the format of `--input_list`, written atomically."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import TracebackType

from job.errors import UsageError

logger = logging.getLogger(__name__)


class KeyList:
    """Writes keys one per line, without adjacent duplicates; the file appears when the block ends without an error.

    A key that contains a line end cannot be listed: it is skipped with a warning.
    """

    def __init__(self, path: str) -> None:
        """Open the file before the work starts, so that a wrong path fails early.

        Raises:
            UsageError: The file cannot be written.
        """
        self._path = Path(path)
        self._partial = Path(f"{path}.{os.getpid()}.part")
        self._last: str | None = None
        try:
            self._stream = self._partial.open("w", encoding="utf-8", newline="\n")
        except OSError as exc:
            raise self._error(exc) from exc

    def __enter__(self) -> KeyList:
        """Nothing to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish the file, or after an error remove its partial content."""
        try:
            self._stream.close()
            if kind is None:
                self._partial.replace(self._path)
        except OSError as exc:
            raise self._error(exc) from exc
        finally:
            self._partial.unlink(missing_ok=True)

    def add(self, key: str) -> None:
        """Add a key.

        Raises:
            UsageError: The list cannot be written.
        """
        if key == self._last:
            return
        self._last = key
        if "\n" in key or "\r" in key:
            logger.warning("%r contains a line end and cannot be listed: rename it", key)
            return
        try:
            self._stream.write(f"{key}\n")
        except OSError as exc:
            raise self._error(exc) from exc

    def _error(self, exc: OSError) -> UsageError:
        return UsageError(f"--list {self._path} cannot be written: {exc.strerror}. Give another file")
