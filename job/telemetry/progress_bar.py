"""Counts of a run, its progress bar, and its summary."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tqdm import tqdm

from job.run.journal import ANNOTATED, FAILED, REVIEWED, SKIPPED, ResultRow
from job.telemetry.logs import is_json_log

logger = logging.getLogger(__name__)

LINE_INTERVAL_S = 5.0
_RULE = "=" * 60
_RESULTS = (ANNOTATED, FAILED, REVIEWED, SKIPPED)
_CUT = "instances beyond 255"
_EMPTY = "images without instances"
_OWN = "images of this process"
_CLASS = "class "


def counts_of(row: ResultRow) -> Counter[str]:
    """What `Tally.add_counts` takes for one image that this process, or a worker process of it, has done."""
    counts = Counter({row.result: 1})
    if row.result == ANNOTATED:
        counts[_OWN] = 1
        counts[_EMPTY] = int(not row.scores)
        counts[_CUT] = row.dropped.get("beyond_255", 0)
        counts.update({f"{_CLASS}{name}": len(scores) for name, scores in row.scores.items()})
    return counts


@dataclass
class Tally:
    """Counts of a run.

    Attributes:
        annotated: Images with an annotation from this run.
        failed: Inputs that failed in this run.
        skipped: Inputs that were done before this run, or whose outputs were found.
        reviewed: Inputs left alone because a person has reviewed their annotation.
        finished: Inputs of the plan that have a result.
        is_begun: Whether there is anything to sum up: the run has a plan.
        without_json: Images without a JSON in the whole input.
        takes_images: Whether these are inputs.
        own: Images that this command annotated; without those of earlier and other processes.
        cut: Of these images, instances beyond 255 in one image, left out.
        empty: Of these images, those without an instance.
        instances: Of these images, instances by class.
        work_s: Seconds between the model was loaded and the last result.
    """

    annotated: int = 0
    failed: int = 0
    skipped: int = 0
    reviewed: int = 0
    finished: int = 0
    is_begun: bool = False
    without_json: int = 0
    takes_images: bool = False
    own: int = 0
    cut: int = 0
    empty: int = 0
    instances: Counter[str] = field(default_factory=Counter)
    work_s: float = 0.0

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

    def add_counts(self, counts: Mapping[str, int]) -> int:
        """Add results by kind and what `counts_of` adds to them; returns the number of results.

        Negative counts take back what a worker process had reported.
        """
        finished_before = self.finished
        for name in _RESULTS:
            self.add(name, counts.get(name, 0))
        self.own += counts.get(_OWN, 0)
        self.cut += counts.get(_CUT, 0)
        self.empty += counts.get(_EMPTY, 0)
        for name, count in counts.items():
            if name.startswith(_CLASS):
                self.instances[name.removeprefix(_CLASS)] += count
        return self.finished - finished_before


class Progress:
    """A bar on a terminal, a log line every few seconds elsewhere."""

    def __init__(self, tally: Tally, total: int) -> None:
        self._tally = tally
        self._total = total
        self._begun = self._logged = time.monotonic()
        self._finished_before = tally.finished
        self._bar: Any = None
        if sys.stderr.isatty() and not is_json_log():
            self._bar = tqdm(
                total=total,
                initial=tally.finished,
                desc="Processing images",
                unit="img",
                dynamic_ncols=True,
                postfix=self._counts(),
            )

    def __enter__(self) -> Progress:
        """Nothing to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it is."""
        self._tally.work_s = time.monotonic() - self._begun
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """`count` more results are in the tally."""
        if self._bar is not None:
            with self._bar.get_lock():  # a refresh by another thread must not see the one without the other
                self._bar.set_postfix_str(self._counts(), refresh=False)
                self._bar.update(count)
        elif time.monotonic() - self._logged >= LINE_INTERVAL_S:
            self._logged = time.monotonic()
            self._log()

    @property
    def images_per_s(self) -> float:
        """Results a second since the start of this process's work."""
        seconds = time.monotonic() - self._begun
        return (self._tally.finished - self._finished_before) / seconds if seconds > 0 else 0.0

    def _counts(self) -> str:
        """`✓=3, ✗=1`, and what else makes up the number of results."""
        tally = self._tally
        skipped = tally.finished - tally.annotated - tally.failed
        return f"✓={tally.annotated}, ✗={tally.failed}" + (f", skipped={skipped}" if skipped else "")

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


def log_summary(tally: Tally, headline: str, *, output_url: str, seconds: float) -> None:
    """Log the original's summary, and what it did not count.

    Args:
        tally: Of the run.
        headline: COMPLETE, PART_COMPLETE or STOPPED.
        output_url: Where the results are.
        seconds: Since the command began.
    """
    logger.info("\n%s", _RULE)
    logger.info(headline)
    logger.info("Successfully processed: %d", tally.annotated)
    logger.info("Failed: %d", tally.failed)
    logger.info("Skipped (already done): %d", tally.skipped)
    if tally.reviewed:
        logger.info("Skipped (reviewed by a person): %d", tally.reviewed)
    if tally.without_json:
        which = "inputs" if tally.takes_images else "no inputs: --missing_json create takes them"
        logger.info("Images without a JSON: %d (%s)", tally.without_json, which)
    if tally.cut:
        logger.info("Instances beyond 255 in one image, left out: %d", tally.cut)
    _log_statistics(tally, seconds)
    logger.info("Output: %s", output_url, extra={"fields": {"output": output_url}})
    logger.info("\n%s", _RULE)


def _log_statistics(tally: Tally, seconds: float) -> None:
    rate = tally.own / tally.work_s if tally.work_s else 0.0
    figures = {"seconds": round(seconds, 1), "images": tally.own, "images_per_s": float(f"{rate:.3g}")}
    if not tally.own:
        logger.info("Time: %.1f s", seconds, extra={"fields": figures})
        return
    logger.info(
        "Time: %.1f s, of which %.1f s for %d images (%s images/s)",
        seconds,
        tally.work_s,
        tally.own,
        significant(rate),
        extra={"fields": figures},
    )
    instances = {name: count for name, count in tally.instances.items() if count}
    shown = ", ".join(f"{name} {count}" for name, count in instances.items())
    logger.info("Instances: %s", shown or "none", extra={"fields": {"instances": instances}})
    logger.info(
        "Images without instances: %d", tally.empty, extra={"fields": {"images_without_instances": tally.empty}}
    )


def significant(rate: float) -> str:
    """A rate with two decimals, and with more where these would show nothing: `0.0033`."""
    return f"{rate:.2f}" if rate >= 0.1 or rate == 0 else f"{rate:.2g}"
