"""A selection that was listed before its plan is written: its inputs are on disk, so that nothing is listed twice."""

from __future__ import annotations

import gzip
import logging
import tempfile
import time
import weakref
from collections.abc import Iterator

from job.plan.selection import Selection

logger = logging.getLogger(__name__)


class SpooledSelection:
    """The lines of a selection in a temporary file, a few bytes an input; see `job.plan.selection.Selection`.

    Attributes:
        count: Number of inputs to process.
        is_whole: Whether the file holds all of them; the disk may be full.
        inputs_listed: Inputs that fit the selection.
        inputs_done: Of these, how many the output holds.
        counts: Images without a JSON.
    """

    def __init__(self, selection: Selection, *, keeps_lines: bool = True) -> None:
        """List.

        Args:
            selection: Not consumed yet.
            keeps_lines: Whether the lines are stored; else they are counted only.
        """
        self._begun_s = time.monotonic()
        self._file = tempfile.TemporaryFile(prefix="sam3-plan-") if keeps_lines else None  # noqa: SIM115 - kept open
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        self.count = 0
        self.is_whole = keeps_lines
        self._store(selection)
        self.inputs_listed, self.inputs_done = selection.inputs_listed, selection.inputs_done
        self.counts = selection.counts

    @property
    def age_s(self) -> float:
        """Time since the listing began."""
        return time.monotonic() - self._begun_s

    def lines(self) -> Iterator[bytes]:
        """The inputs in order, each encoded as a line of its shard."""
        assert self._file is not None, "the lines were counted only"
        self._file.seek(0)
        with gzip.GzipFile(fileobj=self._file) as packed:
            for line in packed:
                yield line.rstrip(b"\n")

    def _store(self, selection: Selection) -> None:
        packed = None if self._file is None else gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=1)
        for line in selection.lines():
            self.count += 1
            if packed is None:
                continue
            try:
                packed.write(line + b"\n")
            except OSError as exc:
                logger.warning("%s: the input is listed again for the plan", exc)
                packed, self.is_whole = None, False
        if packed is not None:
            try:
                packed.close()
            except OSError as exc:
                logger.warning("%s: the input is listed again for the plan", exc)
                self.is_whole = False
