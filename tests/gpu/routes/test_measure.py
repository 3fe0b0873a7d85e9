"""The comparison of runtimes on this machine's CPU, where it shows that each of them runs the same module."""

from __future__ import annotations

import pytest

from tests.gpu.routes.measure import measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_runtimes_agree_on_the_demo_model() -> None:
    found = {x.runtime: x for x in measure("cpu", 1, 3)}
    assert set(found) == {"onnxruntime", "inductor"}
    assert all(x.error < 1e-4 and x.ms > 0 for x in found.values())
