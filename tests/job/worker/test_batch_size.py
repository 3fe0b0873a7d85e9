"""The batch size of a GPU: halved until it fits, then fixed; out of memory later ends the worker."""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from job.errors import DeviceError, DeviceMemoryError
from job.model.loader import open_session
from job.model.prompts import text_features_for
from job.model.session import Grounding, Session, SessionInfo
from job.worker.batch_size import open_with_fitting_batch, probe_of, threshold_for
from tests.fakes import demo_artifact

INFO = SessionInfo(runtime="fake", provider="FakeProvider", image_side=8, batch_size=4, threads=0)


class SmallGpu:
    """Opens sessions of which only batches of up to `room` images run; counts the sessions alive at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.opened: list[int] = []
        self.alive: weakref.WeakSet[SmallSession] = weakref.WeakSet()

    def open(self, batch_size: int) -> SmallSession:
        gc.collect()
        assert not self.alive, "the session that did not fit is still open"
        self.opened.append(batch_size)
        session = SmallSession(self, replace(INFO, batch_size=batch_size))
        self.alive.add(session)
        return session


@dataclass(eq=False)
class SmallSession:
    """A session on a small GPU."""

    gpu: SmallGpu
    info: SessionInfo

    def encode_images(self, pixels: NDArray[np.uint8]) -> int:
        if len(pixels) > self.gpu.room:
            raise DeviceMemoryError("--device cuda: ONNX Runtime failed: Failed to allocate memory")
        return len(pixels)

    def ground(self, features: Any, text: Any, score_threshold: float) -> tuple[Grounding, ...]:
        scores = np.full((3, 4), 0.5, np.float32)
        empty = np.zeros((0, 2), np.int64)
        return (Grounding(scores, empty, np.zeros((0, 2, 2), np.float32)),) * features

    def encode_text(self, token_ids: NDArray[np.int64]) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(("room", "wanted", "opened"), [(4, 4, [4]), (3, 4, [4, 2]), (1, 6, [6, 3, 1]), (16, 16, [16])])
def test_the_batch_is_halved_until_it_fits(
    caplog: pytest.LogCaptureFixture, room: int, wanted: int, opened: list[int]
) -> None:
    caplog.set_level(logging.INFO)
    gpu = SmallGpu(room)
    session = open_with_fitting_batch(gpu.open, wanted, probe_of(demo_artifact(), 3))
    assert gpu.opened == opened
    assert session.info.batch_size == opened[-1]
    note = "" if len(opened) == 1 else f" ({wanted} do not fit)"
    assert caplog.messages[-1] == f"Batch size: {opened[-1]}{note}"
    assert len(caplog.messages) == len(opened)


def test_a_gpu_without_room_for_one_image_is_an_error_with_the_runtimes_words() -> None:
    gpu = SmallGpu(0)
    with pytest.raises(DeviceMemoryError, match=r"Failed to allocate memory\. Not even one image fits"):
        open_with_fitting_batch(gpu.open, 4, probe_of(demo_artifact(), 3))
    assert gpu.opened == [4, 2, 1]


@pytest.mark.parametrize("error", [DeviceMemoryError("weights"), DeviceError("no device")])
def test_other_errors_are_not_retried_with_a_smaller_batch(error: DeviceError) -> None:
    opened = []

    def fail(batch_size: int) -> Session:
        opened.append(batch_size)
        raise error

    with pytest.raises(type(error)) as raised:
        open_with_fitting_batch(fail, 4, probe_of(demo_artifact(), 3))
    assert raised.value is error
    assert opened == [4]


def test_a_threshold_selects_so_many_scores() -> None:
    scores = np.random.default_rng(3).random((3, 40), np.float32)
    for count in (1, 7, 120):
        assert (scores > np.float32(threshold_for(scores, count))).sum() == count
    assert (scores > np.float32(threshold_for(scores, 1000))).sum() == 120
    assert np.isfinite(threshold_for(np.full((2, 2), np.nan, np.float32), 2))


def test_the_probe_runs_a_whole_batch_with_masks_through_the_real_graphs() -> None:
    artifact = demo_artifact()
    session = open_session(artifact, device="cpu", threads=1)
    calls: list[tuple[int, int]] = []

    class Recording:
        info = session.info

        def encode_images(self, pixels: NDArray[np.uint8]) -> Any:
            return session.encode_images(pixels)

        def ground(self, features: Any, text: Any, score_threshold: float) -> tuple[Grounding, ...]:
            found = session.ground(features, text, score_threshold)
            calls.append((len(text.features), len(found[0].mask_logits)))
            return found

        def encode_text(self, token_ids: NDArray[np.int64]) -> Any:
            raise NotImplementedError

    probe_of(artifact, 2)(Recording())
    assert calls == [(2, 0), (2, min(255, 2 * calls_queries(session, artifact)))]


def calls_queries(session: Session, artifact: Any) -> int:
    pixels = np.zeros((1, session.info.image_side, session.info.image_side, 3), np.uint8)
    text = text_features_for(artifact, session, ("car",))
    return session.ground(session.encode_images(pixels), text, 1.0)[0].scores.shape[1]


def test_batch_sizes_give_the_same_instances_within_the_tolerance_of_machines() -> None:
    """The graphs at batch 1, 2 and 4, as a GPU gets them: scores within 1e-4, masks at most 2 pixels apart."""
    artifact = demo_artifact()
    session: Any = open_session(artifact, device="cpu", threads=1)
    text = text_features_for(artifact, session, artifact.manifest.prompts)
    with np.load(artifact.path("reference.npz")) as arrays:
        pixels = np.concatenate([arrays["pixels"]] * 2)[:4]
    found: dict[int, list[Grounding]] = {}
    for batch_size in (1, 2, 4):
        session._info = replace(session.info, batch_size=batch_size)
        found[batch_size] = [
            grounding
            for start in range(0, 4, batch_size)
            for grounding in session.ground(session.encode_images(pixels[start : start + batch_size]), text, 0.4)
        ]
    for batch_size in (2, 4):
        for ours, single in zip(found[batch_size], found[1], strict=True):
            np.testing.assert_array_equal(ours.selected, single.selected)
            assert np.abs(ours.scores - single.scores).max() <= 1e-4
            apart = ((ours.mask_logits > 0) != (single.mask_logits > 0)).sum(axis=(1, 2))
            assert apart.max(initial=0) <= 2
