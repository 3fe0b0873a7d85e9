"""Logging: the original's lines on a terminal or in a file, JSON lines for machines."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from datetime import UTC, datetime
from typing import Literal

from tqdm import tqdm

LogFormat = Literal["text", "json"]

_TEXT_FORMAT = "%(asctime)s - %(levelname)s - %(message)s"


def set_up_logging(level: str, log_format: LogFormat) -> None:
    """Log to standard error.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        log_format: `text` as the original wrote it, `json` for one object a line.
    """
    handler = _BarSafeHandler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT_FORMAT))
    if log_format == "json":
        handler.addFilter(lambda record: bool(record.getMessage().strip("=\n")))  # no rules between lines
    logging.basicConfig(level=level, handlers=[handler], force=True)
    quiet_libraries()
    # Pillow warns of odd metadata; only pixels matter here, and what they need raises.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def quiet_libraries() -> None:
    """Let libraries say no more than warnings; their debug lines show requests with signatures."""
    for name in ("PIL", "fsspec", "s3fs", "aiobotocore", "botocore", "asyncio", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _BarSafeHandler(logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            tqdm.write(self.format(record), file=sys.stderr)
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
