"""The command line with a decoder that crashes on one picture: `poisoned.py FLAG…`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from job.cli.main import main
from job.pipeline import stages

POISON = b"poison"
"""A picture that ends with these bytes crashes the decoder."""

_decode = stages.decode_for_model


def _deadly(image: bytes, side: int) -> Any:
    if image.endswith(POISON):
        os.kill(os.getpid(), signal.SIGKILL)
    return _decode(image, side)


if __name__ == "__main__":
    stages.decode_for_model = _deadly
    main(sys.argv[1:])
