"""Exact 8-bit matrix products in ONNX Runtime on every processor.

On x86-64 without VNNI or AMX, ONNX Runtime's kernels for uint8 x int8 add pairs of products in 16 bits and saturate:
255 * 127 * 2 does not fit. Its session option `session.x64quantprecision` converts the weights to uint8 while a model
loads; those kernels add in 32 bits and are exact, and slower than the saturating ones. With VNNI and AMX the int8
kernels are exact and up to ten times as fast as the uint8 ones. So the weights are stored as int8, and this module
measures once a process which kernels are exact.

Source: onnxruntime, `onnxruntime_session_options_config_keys.h` (kOrtSessionOptionsAvx2PrecisionMode).
"""

from __future__ import annotations

import base64
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from job.errors import DeviceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRECISION_OPTION = "session.x64quantprecision"
PROBE_MODEL = base64.b64decode(
    "CAo6oQEKGwoBeAoBdwoBehIBeSINTWF0TXVsSW50ZWdlchIBZypLCAQIEBADQgF3SkB/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/"
    "f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/KggQAkIBekoBAFoTCgF4Eg4KDAgCEggKAggQCgIIBGITCgF5Eg4KDAgGEggKAggQCgIIEEIECgAQFQ=="
)
"""`MatMulInteger`: x uint8 (16, 4) times 127 in int8 (4, 16), the largest sum of two products that int8 weights give.

Its test builds the same bytes with the onnx package, which a worker does not have.
"""


def require_exact_integers(options: Any) -> None:
    """Make the integer products of a session exact on this processor.

    Args:
        options: `onnxruntime.SessionOptions`, changed in place where the fastest kernels saturate.

    Raises:
        DeviceError: ONNX Runtime has no exact kernel for this processor.
    """
    mode = _exact_mode()
    if mode is None:
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} multiplies 8-bit integers inexactly on this processor: annotate with an "
            "fp32 artifact here, or run this int8 artifact on another kind of machine"
        )
    options.add_session_config_entry(PRECISION_OPTION, mode)


@cache
def _exact_mode() -> str | None:
    """Value of `PRECISION_OPTION` that gives exact sums here, the faster first; None if neither does."""
    return next((mode for mode in ("0", "1") if is_exact(probe(mode))), None)


def probe(mode: str) -> NDArray[np.int32]:
    """Run the probe, int32 (16, 16), with a value of `PRECISION_OPTION`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(PRECISION_OPTION, mode)
    session = ort.InferenceSession(PROBE_MODEL, options, providers=["CPUExecutionProvider"])
    sums: NDArray[np.int32] = session.run(None, {"x": np.full((16, 4), 255, np.uint8)})[0]
    return sums


def is_exact(sums: NDArray[np.int32]) -> bool:
    """Compare the probe's answer with the exact sum."""
    return bool((sums == 4 * 255 * 127).all())
