"""The command line, where no picture is decoded before two workers decode one: `together.py FLAG…`.

The worker that loads the model second takes two seconds longer. The folder TOGETHER tells the processes of each other.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from job.cli.main import main
from job.pipeline import stages
from job.worker import factory

_decode, _open_session = stages.decode_for_model, factory.open_session
_folder = Path(os.environ["TOGETHER"])


def _later(*arguments: Any, **options: Any) -> Any:
    try:
        (_folder / "loading").mkdir()
    except FileExistsError:
        time.sleep(2)
    return _open_session(*arguments, **options)


def _together(image: bytes, side: int) -> Any:
    (_folder / f"decoding-{os.getpid()}").touch()
    while len(list(_folder.glob("decoding-*"))) < 2:
        time.sleep(0.05)
    return _decode(image, side)


# Workers import this module: it changes them too.
factory.open_session, stages.decode_for_model = _later, _together

if __name__ == "__main__":
    main(sys.argv[1:])
