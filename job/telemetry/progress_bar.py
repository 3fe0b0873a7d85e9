"""What a person sees while a run is at work, and at its end."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tqdm import tqdm

from job.run.journal import ANNOTATED, FAILED, SKIPPED

logger = logging.getLogger(__name__)

LINE_INTERVAL_S = 5.0
_RULE = "=" * 60


@dataclass
class Tally:
    """Counts of a run.

    Attributes:
        annotated: Images with an annotation from this run.
        failed: Inputs that failed in this run.
        skipped: Inputs that were done before this run, or whose outputs were found.
        reviewed: Inputs left alone because a person has reviewed their annotation.
        cut: Instances beyond 255 in one image, left out.
        finished: Inputs of the plan that have a result.
        is_begun: Whether there is anything to sum up: the run has a plan.
    """

    annotated: int = 0
    failed: int = 0
    skipped: int = 0
    reviewed: int = 0
    cut: int = 0
    finished: int = 0
    is_begun: bool = False

    def add(self, result: str, count: int = 1) -> None:
        """Count results of a kind."""
        self.finished += count
        if result == ANNOTATED:
            self.annotated += count
        elif result == FAILED:
            self.failed += count
        elif result == SKIPPED:
            self.skipped += count
        else:
            self.reviewed += count


class Progress:
    """A bar on a terminal, a log line every few seconds elsewhere."""

    def __init__(self, tally: Tally, total: int) -> None:
        self._tally = tally
        self._total = total
        self._begun = self._logged = time.monotonic()
        self._finished_before = tally.finished
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=tally.finished, desc="Processing images", unit="img", dynamic_ncols=True
            )
            self._show_counts()

    def __enter__(self) -> Progress:
        """Nothing to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """So many more results are in the tally."""
        if self._bar is not None:
            self._bar.update(count)
            self._show_counts()
        elif time.monotonic() - self._logged >= LINE_INTERVAL_S:
            self._logged = time.monotonic()
            self._log()

    @property
    def images_per_s(self) -> float:
        """Results a second since the start of this process's work."""
        seconds = time.monotonic() - self._begun
        return (self._tally.finished - self._finished_before) / seconds if seconds > 0 else 0.0

    def _show_counts(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"✓={self._tally.annotated}, ✗={self._tally.failed}", refresh=False)

    def _log(self) -> None:
        tally = self._tally
        logger.info(
            "Processing images: %d/%d, %.2f img/s, ✓=%d, ✗=%d",
            tally.finished,
            self._total,
            self.images_per_s,
            tally.annotated,
            tally.failed,
            extra={"fields": {"done": tally.annotated, "failed": tally.failed, "total": self._total}},
        )


COMPLETE = "Processing complete!"
PART_COMPLETE = "This process's part is complete; other processes have work left"
STOPPED = "Processing stopped with work left"


def log_summary(tally: Tally, headline: str) -> None:
    """The original's summary, and what it did not count."""
    logger.info("\n%s", _RULE)
    logger.info(headline)
    logger.info("Successfully processed: %d", tally.annotated)
    logger.info("Failed: %d", tally.failed)
    logger.info("Skipped (already done): %d", tally.skipped)
    if tally.reviewed:
        logger.info("Skipped (reviewed by a person): %d", tally.reviewed)
    if tally.cut:
        logger.info("Instances beyond 255 in one image, left out: %d", tally.cut)
    logger.info("\n%s", _RULE)
