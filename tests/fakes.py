"""Fakes for protocols: a session without a model, a clock without waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import job.worker.factory
from job.model.artifact import Artifact, open_artifact
from job.model.session import Grounding, SessionInfo, TextFeatures
from job.run.options import WorkerOptions
from job.run.run import open_run
from job.run.spec import RunEnd, RunSpec
from job.storage.local.store import LocalStore
from job.worker.runner import AnnotateRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 32
DEMO_ARTIFACT = Path(__file__).parent.parent / "job" / "demo_artifact"


@dataclass
class FakeSession:
    """Finds one square car in every picture; `before_image` may fail, hang or kill instead."""

    before_image: Callable[[NDArray[np.uint8]], None] = lambda pixels: None
    images: int = 0
    info: SessionInfo = field(
        default_factory=lambda: SessionInfo(
            runtime="fake", provider="FakeProvider", image_side=SIDE, batch_size=1, threads=1
        )
    )

    def encode_images(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.before_image(pixels)
        self.images += len(pixels)
        return pixels

    def ground(self, features: NDArray[np.uint8], text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        logits = np.full((1, 8, 8), -1, np.float32)
        logits[0, 2:6, 2:6] = 1
        scores = np.zeros((3, 4), np.float32)
        scores[0, 1] = 0.9
        return tuple(Grounding(scores, np.array([[0, 1]], np.int64), logits) for _ in features)

    def encode_text(self, token_ids: NDArray[np.int64]) -> TextFeatures:
        raise NotImplementedError


def use_fake_session(monkeypatch: pytest.MonkeyPatch, session: FakeSession) -> None:
    """Let `annotate` open a fake session; it has no reference to be checked with."""
    monkeypatch.setattr(job.worker.factory, "open_session", lambda artifact, **options: session)
    monkeypatch.setattr(job.worker.factory, "self_check", lambda *arguments, **options: None)


@dataclass
class JumpingClock:
    """A clock whose `sleep` returns at once."""

    now_s: float = 0.0
    waits: list[float] = field(default_factory=list)

    def monotonic_s(self) -> float:
        return self.now_s

    def boot_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds


def demo_artifact() -> Artifact:
    """The embedded artifact."""
    return open_artifact(DEMO_ARTIFACT)


def write_inputs(folder: Path, count: int, size_wh: tuple[int, int] = (40, 30)) -> None:
    """Plain pictures with JSONs, `000.jpg`, `000.json`, …, of different grey levels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", size_wh, (number % 256,) * 3).save(folder / f"{number:05d}.jpg")
        (folder / f"{number:05d}.json").write_text('{"source": {"camera": "entry1"}}')


def spec_of(source: Path, **changes: object) -> RunSpec:
    """The specification of a plain run."""
    fields: dict[str, object] = {
        "input_url": str(source),
        "prompts": ("car", "license plate", "person"),
        "confidence_threshold": 0.4,
        "annotation_date": "2026-01-31",
        "image_mode": "copy",
        "override": False,
        "override_reviewed": False,
        "max_image_pixels": 1_000_000,
        "limit": None,
        "model_id": "SAM3-demo",
        "checkpoint_sha256": "0" * 64,
    }
    return RunSpec(**(fields | changes))  # type: ignore[arg-type]


def write_ended_run(target: Path, name: str, end: RunEnd | None = None) -> None:
    """Write `run.json` and `end.json` of a run."""
    run = open_run(LocalStore(target, "tester"), spec_of(target), name=name, is_date_given=True, process_id="tester")
    run.write_end(end or RunEnd(outcome="succeeded", by="x"))


def request_of(
    source: Path, target: Path, *, run_name: str | None = None, options: WorkerOptions | None = None, **changes: object
) -> AnnotateRequest:
    """A request for a plain run over local folders."""
    options = options or WorkerOptions(device="cpu")
    return AnnotateRequest(
        source=LocalStore(source, options.process_id),
        target=LocalStore(target, options.process_id),
        artifact=demo_artifact(),
        spec=spec_of(source, **changes),
        is_date_given=False,
        run_name=run_name,
        options=options,
    )
