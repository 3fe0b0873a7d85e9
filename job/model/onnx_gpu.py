"""ONNX Runtime and the GPU of this node, without a model: what it needs, and whether it computes one sum."""

from __future__ import annotations

import base64

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import build_and_package_info

from job.errors import DeviceError
from job.model.gpu import GpuNeeds, device_failure
from job.model.onnx_session import CUDA_OPTIONS, CUDA_PROVIDER, ORT_ERRORS

SUM_MODEL = base64.b64decode("CAo6NQoOCgF4CgF4EgF5IgNBZGQSAWdaDwoBeBIKCggIARIECgIIAWIPCgF5EgoKCAgBEgQKAggBQgQKABAV")
"""y = x + x, float32 (1,). Its test builds the same bytes with the onnx package, which a worker does not have."""
_SMALLEST_CAPABILITY = (7, 5)
"""The released wheel has kernels for 7.5, 8.0, 8.6, 8.9, 9.0 and 12.0: none for Volta and Pascal."""


def gpu_needs() -> GpuNeeds:
    """What this installation of ONNX Runtime needs of a GPU."""
    major, _, rest = str(getattr(build_and_package_info, "cuda_version", "")).partition(".")
    minor = rest.partition(".")[0]
    cuda = (int(major), int(minor or 0)) if major.isdigit() else None
    return GpuNeeds(f"{build_and_package_info.package_name} {ort.__version__}", cuda, _SMALLEST_CAPABILITY)


def try_gpu() -> None:
    """Compute one sum on the GPU, in about a second.

    Raises:
        DeviceError: ONNX Runtime cannot use the GPU; the message holds its own words.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        ort.preload_dlls()
        providers = [(CUDA_PROVIDER, CUDA_OPTIONS)]
        session = ort.InferenceSession(SUM_MODEL, options, providers=providers, enable_fallback=0)
        session.run(None, {"x": np.ones(1, np.float32)})
    except ORT_ERRORS as exc:
        raise device_failure("cuda", "ONNX Runtime", exc) from exc
    if session.get_providers()[0] != CUDA_PROVIDER:
        raise DeviceError(f"--device cuda: ONNX Runtime could not load its {CUDA_PROVIDER}")
