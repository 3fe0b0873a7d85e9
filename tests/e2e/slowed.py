"""The command line with a decoder that takes ten seconds an image: `slowed.py FLAG…`."""

from __future__ import annotations

import sys
import time
from typing import Any

from job.cli.main import main
from job.pipeline import stages

_decode = stages.decode_for_model


def _slow(image: bytes, side: int) -> Any:
    time.sleep(10)
    return _decode(image, side)


if __name__ == "__main__":
    stages.decode_for_model = _slow
    main(sys.argv[1:])
