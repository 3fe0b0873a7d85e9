"""What the worker says of a GPU, on stub CUDA libraries: `tests.gpu.stubs.StubGpu.run` starts it.

Standard input: one JSON object with `step`: `check`, or `open` to load the model of the folder `model`. Last line of
standard output: the class of the error and its message, both empty if there was none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from job.errors import AnnotateError
from job.model.artifact import open_artifact
from job.model.loader import check_gpu, gpu_answers, open_session
from job.system.cuda_driver import device_memory_used


def main() -> None:
    """Do one step and report its error."""
    request = json.load(sys.stdin)
    error: Exception | None = None
    try:
        if request["step"] == "check":
            check_gpu("cuda", "onnx")
        else:
            open_session(open_artifact(Path(request["model"])), device="cuda")
    except AnnotateError as exc:
        error = exc
    found = {
        "error": type(error).__name__ if error else "",
        "message": str(error or ""),
        "gpu_answers": gpu_answers(),
        "memory_used": device_memory_used(),
    }
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
