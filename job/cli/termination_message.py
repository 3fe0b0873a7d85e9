"""Why a process ended, where Kubernetes shows it: the termination message of its pod."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "SAM3_TERMINATION_LOG"
LONGEST_BYTES = 4096
"""What the kubelet keeps of it."""
_CUT = "…"


def write_termination_message(error: str, code: int, message: str) -> None:
    """One line into the file that SAM3_TERMINATION_LOG names; one that cannot be written is no error of its own.

    Args:
        error: Name of the error's class.
        code: Exit code.
        message: Of the error.
    """
    path = os.environ.get(VARIABLE)
    if path:
        with suppress(OSError, ValueError):
            Path(path).write_bytes(_line(f"{error}, exit {code}: {' '.join(message.split())}"))


def _line(text: str) -> bytes:
    encoded = f"{text}\n".encode(errors="replace")
    if len(encoded) <= LONGEST_BYTES:
        return encoded
    room = LONGEST_BYTES - len(f"{_CUT}\n".encode())
    return f"{encoded[:room].decode(errors='ignore')}{_CUT}\n".encode()
