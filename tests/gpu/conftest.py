"""The GPU build of ONNX Runtime on stub CUDA libraries."""

from __future__ import annotations

import pytest

from tests.gpu.stubs import NoRegistryError, StubGpu, stub_gpu


@pytest.fixture(scope="session")
def gpu() -> StubGpu:
    """Skip only where pip reaches no registry."""
    try:
        return stub_gpu()
    except NoRegistryError as exc:
        pytest.skip(f"pip cannot fetch the onnxruntime-gpu wheel: {exc}")
