"""The termination message of a pod: Kubernetes shows it as the reason why the process ended."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from job.redaction import redact

VARIABLE = "SAM3_TERMINATION_LOG"
LONGEST_BYTES = 4096
"""The kubelet truncates longer messages."""
_CUT = "…"


def write_termination_message(error: str, code: int, message: str) -> None:
    """Write one line into the file that SAM3_TERMINATION_LOG names; a failure to write it is ignored.

    Args:
        error: Class name of the error.
        code: Exit code.
        message: Text of the error.
    """
    path = os.environ.get(VARIABLE)
    if path:
        with suppress(OSError, ValueError):
            Path(path).write_bytes(_line(f"{error}, exit {code}: {' '.join(redact(message).split())}"))


def _line(text: str) -> bytes:
    encoded = f"{text}\n".encode(errors="replace")
    if len(encoded) <= LONGEST_BYTES:
        return encoded
    room = LONGEST_BYTES - len(f"{_CUT}\n".encode())
    return f"{encoded[:room].decode(errors='ignore')}{_CUT}\n".encode()
