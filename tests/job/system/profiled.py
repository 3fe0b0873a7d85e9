"""The command line, which tells on stderr which types msgspec described in a thread: `profiled.py FLAG…`."""

from __future__ import annotations

import sys
import threading
from types import FrameType

from msgspec._utils import get_class_annotations

from job.cli.main import run

DESCRIBED = "described in a thread: "


def _tell(frame: FrameType, event: str, _argument: object) -> None:
    if event == "call" and frame.f_code is get_class_annotations.__code__:
        sys.stderr.write(f"{DESCRIBED}{frame.f_locals['obj'].__name__}\n")


def tell_descriptions() -> None:
    """Tell those of all threads that start from here; the main thread is not among them."""
    threading.setprofile(_tell)


if __name__ == "__main__":
    tell_descriptions()
    sys.exit(run(sys.argv[1:]))
