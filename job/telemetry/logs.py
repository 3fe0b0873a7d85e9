"""Logging: the original's lines on a terminal or in a file, JSON lines for machines."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from datetime import UTC, datetime
from typing import Literal

from tqdm import tqdm

from job.redaction import redact
from job.run.journal import ANNOTATED, ResultRow

LogFormat = Literal["text", "json"]

_TEXT_FORMAT = "%(asctime)s - %(levelname)s - %(message)s"

logger = logging.getLogger(__name__)


def set_up_logging(level: str, log_format: LogFormat) -> None:
    """Log to standard error.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        log_format: `text` as the original wrote it, `json` for one object a line; then Python's warnings and the
            errors of threads are log lines as well, so that every line is JSON.
    """
    handler = _BarSafeHandler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT_FORMAT))
    if log_format == "json":
        handler.addFilter(lambda record: bool(record.getMessage().strip("=\n")))  # no rules between lines
        log_python_messages()
    logging.basicConfig(level=level, handlers=[handler], force=True)
    quiet_libraries()
    # Pillow warns of odd metadata; only pixels matter here, and what they need raises.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def is_json_log() -> bool:
    """Whether standard error takes JSON lines only."""
    return any(isinstance(handler.formatter, _JsonFormatter) for handler in logging.getLogger().handlers)


def quiet_libraries() -> None:
    """Limit libraries to warnings; their debug lines show requests with signatures.

    urllib3 warns of each retry of the Kubernetes client, whose last failure becomes an error of ours. That client sets
    the level of `urllib3` itself.
    """
    for name in ("PIL", "fsspec", "s3fs", "aiobotocore", "botocore", "asyncio", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def log_image(row: ResultRow) -> None:
    """Log the statistics of one image at DEBUG: instances by class with scores, drops, milliseconds by stage."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    milliseconds = {stage: round(1000 * seconds, 1) for stage, seconds in row.seconds.items()}
    parts = [row.result if not row.reason else f"{row.result} ({row.reason})"]
    if row.scores:
        parts.append(", ".join(f"{name} {_numbers(scores)}" for name, scores in row.scores.items()))
    elif row.result == ANNOTATED:
        parts.append("no instances")
    if row.dropped:
        parts.append("dropped: " + ", ".join(f"{reason} {count}" for reason, count in row.dropped.items()))
    if row.hidden:
        parts.append(f"hidden: {row.hidden}")
    parts.append("ms: " + ", ".join(f"{stage} {spent:.1f}" for stage, spent in milliseconds.items()))
    fields = {
        "image": row.json,
        "result": row.result,
        "scores": row.scores,
        "dropped": row.dropped,
        "hidden": row.hidden,
        "milliseconds": milliseconds,
    }
    logger.debug("%s: %s", row.json, "; ".join(parts), extra={"fields": fields})


def _numbers(scores: list[float]) -> str:
    return " ".join(f"{score:.3f}" for score in scores)


def log_python_messages() -> None:
    """Log Python's warnings and the errors of threads instead of printing them to standard error."""
    logging.captureWarnings(True)
    threading.excepthook = lambda error: logger.error(
        "An unexpected error in thread %s",
        error.thread.name if error.thread else "?",
        exc_info=(error.exc_type, error.exc_value or error.exc_type(), error.exc_traceback),
    )
    sys.unraisablehook = lambda error: logger.error(
        "An unexpected error in %r",
        error.object,
        exc_info=(error.exc_type, error.exc_value or error.exc_type(), error.exc_traceback),
    )


class _BarSafeHandler(logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            tqdm.write(redact(self.format(record)), file=sys.stderr)
        except (OSError, ValueError):
            self.handleError(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage().strip("=\n"),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
