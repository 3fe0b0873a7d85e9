"""Runs the command line and kills it at a chosen file operation: `killed.py SIGNAL NUMBER TRACE FLAG…`.

The operations are those of the operating system through which anything becomes visible or durable: fsync,
rename, link. Before the one of that NUMBER the process gets SIGNAL; its name and path go to the file TRACE, one
line an operation, so that a test can determine the phase. NUMBER 0 only traces.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from job.cli.main import main

_lock = threading.Lock()
_count = 0


def _traced(name: str, number: int, kill_with: int, trace: str) -> Any:
    original = getattr(os, name)

    def operation(*args: Any, **kwargs: Any) -> Any:
        global _count
        with _lock:
            _count += 1
            is_mine = _count == number
            with open(trace, "a", encoding="utf-8") as stream:
                stream.write(f"{_count} {name} {args[-1]}\n")
        if is_mine:
            os.kill(os.getpid(), kill_with)
        return original(*args, **kwargs)

    return operation


if __name__ == "__main__":
    signal_name, number_text, trace_path, *flags = sys.argv[1:]
    for operation_name in ("fsync", "replace", "link"):
        wanted = getattr(signal, signal_name)
        setattr(os, operation_name, _traced(operation_name, int(number_text), wanted, trace_path))
    main(flags)
