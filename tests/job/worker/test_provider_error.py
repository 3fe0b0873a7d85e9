"""An execution provider that fails in the middle of a run: no image is blamed, and the same command resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from job.errors import DeviceError, DeviceMemoryError, ModelError
from job.run.options import WorkerOptions
from job.run.run import newest_run
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.tools.progress import read_progress
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of
from tests.job.worker.conftest import UseSession
from tests.processes import results


@pytest.mark.parametrize("error", [DeviceError, DeviceMemoryError])
def test_a_provider_that_fails_from_the_third_image_on(
    source: Path, target: Path, tmp_path: Path, use_session: UseSession, error: type[DeviceError]
) -> None:
    annotate(request_of(source, tmp_path / "quiet"), Tally())

    def fail(pixels: NDArray[np.uint8]) -> None:
        if session.images >= 2:
            raise error("CUDA error 700: an illegal memory access was encountered")

    session = use_session(FakeSession(before_image=fail))
    one_at_a_time = WorkerOptions(device="cpu", batch_size=1)
    with pytest.raises(error, match="CUDA error 700"):
        annotate(request_of(source, target, options=one_at_a_time), Tally())
    run = newest_run(LocalStore(target, "x"))
    progress = read_progress(run.store, run.name)
    assert (progress.done, progress.failed, run.end()) == (2, 0, None)
    use_session(FakeSession())
    end = annotate(request_of(source, target), Tally())
    assert end is not None
    assert (end.outcome, end.annotated, end.failed) == ("succeeded", 5, 0)
    assert results(target) == results(tmp_path / "quiet")


def test_a_provider_that_gives_numbers_that_are_not_finite_once(
    source: Path, target: Path, tmp_path: Path, use_session: UseSession
) -> None:
    annotate(request_of(source, tmp_path / "quiet"), Tally())
    failures = [ModelError("the model returned numbers that are not finite")]

    def fail_once(pixels: NDArray[np.uint8]) -> None:
        if session.images == 2 and failures:
            raise failures.pop()

    session = use_session(FakeSession(before_image=fail_once))
    end = annotate(request_of(source, target), Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (5, 0)
    assert results(target) == results(tmp_path / "quiet")
