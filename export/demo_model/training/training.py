"""Trains the demo model from a seed or a checkpoint for a given time.

Several processes of one thread each compute gradients of their own batches and share the mean gradient. Each computes
the same update, so nothing else is shared. The schedule depends on the time, not on the number of steps: training
ends on time on a busy machine too, after fewer steps.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.spawn import spawn

from export.demo_model.architecture import save_checkpoint
from export.demo_model.scenes.dataset import Cache
from export.demo_model.scenes.scenes import CLASS_NAMES
from export.demo_model.training.batches import BatchOptions, draw_batch
from export.demo_model.training.gradients import SharedMean
from export.demo_model.training.grounding import trainable_on_cpu
from export.demo_model.training.learner import Learner, LearnerOptions

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT, _STATE, _LOG = "last.pt", "training.pt", "log.jsonl"
# The side of the network's masks is four per patch; the side of the target masks is twice that.
_MASK_PLACES = 8
_WARMUP_STEPS, _LAST_RATE_SHARE = 40, 0.02
_LOG_STEPS, _LOG_MEMORY = 20, 0.95


@dataclass(frozen=True)
class Stage:
    """Part of the schedule.

    Attributes:
        image_side_px: Size of the pictures.
        share: Part of the time.
        is_dense: Whether only the features of the picture are trained, without prompts.
    """

    image_side_px: int
    share: float
    is_dense: bool = False


FROM_SEED = (Stage(224, 0.15, is_dense=True), Stage(224, 0.45), Stage(336, 0.4))
FROM_CHECKPOINT = (Stage(336, 1.0),)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train.

    Attributes:
        folder: Folder of checkpoint, log and state; training resumes from a state that exists.
        cache: Folder of the training scenes.
        learner: The initial state.
        minutes: Training time, including earlier runs in the folder.
        stages: Parts of the schedule; the shares add up to 1.
        processes: Number of processes.
        pictures: Pictures in the batch of a process.
        prompts: Prompts for each.
        rate: Highest learning rate.
        save_minutes: Time between checkpoints.
    """

    folder: Path
    cache: Path
    learner: LearnerOptions
    minutes: float
    stages: tuple[Stage, ...] = FROM_SEED
    processes: int = 2
    pictures: int = 8
    prompts: int = 2
    rate: float = 7e-4
    save_minutes: float = 4.0


def train(options: TrainingOptions) -> Path:
    """Train until the time is over; returns the path of the checkpoint."""
    options.folder.mkdir(parents=True, exist_ok=True)
    # Threads that spin while they wait slow each other down. The processes inherit this setting.
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    length = sum(p.numel() for p in Learner(options.learner, options.stages[0].image_side_px).parameters.values())
    shared = SharedMean(options.processes, length + 1)
    if options.processes == 1:
        _train_process(0, options, shared)
    else:
        spawn(_train_process, (options, shared), nprocs=options.processes)  # type: ignore[no-untyped-call]
    return options.folder / CHECKPOINT


def rate_at(options: TrainingOptions, progress: float, steps: int) -> float:
    """Learning rate: warm-up over the first steps, then a cosine decay over the elapsed time (progress 0..1)."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return options.rate * min(1.0, (steps + 1) / _WARMUP_STEPS) * (_LAST_RATE_SHARE + (1 - _LAST_RATE_SHARE) * cosine)


def stage_at(stages: tuple[Stage, ...], progress: float) -> Stage:
    """The stage at a fraction (0..1) of the time."""
    end = 0.0
    for stage in stages:
        end += stage.share
        if progress < end:
            return stage
    return stages[-1]


@dataclass
class _Run:
    """One process's part of the training."""

    process: int
    options: TrainingOptions
    shared: SharedMean
    cache: Cache
    elapsed_s: float = 0.0
    saved_s: float = 0.0
    log: _Log = field(default_factory=lambda: _Log())

    def __post_init__(self) -> None:
        self.stage = self.options.stages[0]
        state = _read_state(self.options.folder / _STATE)
        if state:
            self.elapsed_s = self.saved_s = state["elapsed_s"]
            self.stage = stage_at(self.options.stages, self.progress)
        self.learner = self._learner(state)
        self._start = time.monotonic() - self.elapsed_s

    @property
    def progress(self) -> float:
        """Fraction of the time that has elapsed."""
        return self.elapsed_s / (self.options.minutes * 60)

    def step(self) -> None:
        """Make one step with a batch of each process."""
        stage = stage_at(self.options.stages, self.progress)
        if stage != self.stage:
            self.stage, state = stage, self.learner.state()
            self.learner, self.log = self._learner(state), _Log()
        losses = self.learner.backward(draw_batch(self.cache, self._batch_options(), self._chance()))
        clock = torch.tensor([time.monotonic() - self._start])
        mean = self.shared.of(torch.cat([self.learner.gradient(), clock]), self.process)
        # All processes use the same clock; otherwise they would not agree on the end of a stage.
        self.elapsed_s = float(mean[-1])
        rate = rate_at(self.options, self.progress, self.learner.steps)
        self.learner.update(mean[:-1], rate)
        if self.process == 0:
            self._report(losses, rate)

    def save(self) -> None:
        """Write checkpoint and state; the state is replaced atomically."""
        folder, config = self.options.folder, self.options.learner.config
        for name in (CHECKPOINT, _STATE):
            partial = folder / f"{name}.part"
            if name == CHECKPOINT:
                save_checkpoint(partial, config, self.learner.official_weights())
            else:
                torch.save({**self.learner.state(), "elapsed_s": self.elapsed_s}, partial)
            partial.replace(folder / name)
        self.saved_s = self.elapsed_s

    def _report(self, losses: dict[str, float], rate: float) -> None:
        self.log.add(losses)
        is_to_save = self.progress >= 1 or self.elapsed_s - self.saved_s >= self.options.save_minutes * 60
        if is_to_save or self.learner.steps % _LOG_STEPS == 0:
            head = {"step": self.learner.steps, "s": round(self.elapsed_s, 1), "rate": round(rate, 6)}
            self.log.write(self.options.folder / _LOG, {**head, "side": self.stage.image_side_px})
        if is_to_save:
            self.save()

    def _learner(self, state: dict[str, Any] | None) -> Learner:
        learner = Learner(self.options.learner, self.stage.image_side_px)
        if state:
            learner.resume(state)
        return learner

    def _batch_options(self) -> BatchOptions:
        options, side = self.options, self.stage.image_side_px
        dense = self.stage.is_dense
        return BatchOptions(
            pictures=options.pictures * (2 if dense else 1),
            prompts=len(CLASS_NAMES) if dense else options.prompts,
            image_side_px=side,
            mask_side_px=side // options.learner.config.patch_px * _MASK_PLACES,
        )

    def _chance(self) -> random.Random:
        """A generator seeded by the step, so that a resumed run draws the same batches."""
        return random.Random(f"{self.options.learner.seed} {self.process} {self.learner.steps}")


class _Log:
    """Losses, averaged over the last steps."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def add(self, losses: dict[str, float]) -> None:
        """Add the losses of a step."""
        for name, value in losses.items():
            before = self._means.get(name, value)
            self._means[name] = before * _LOG_MEMORY + value * (1 - _LOG_MEMORY)

    def write(self, path: Path, head: dict[str, float]) -> None:
        """Append a line."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**head, **{name: round(value, 4) for name, value in self._means.items()}}) + "\n")


def _train_process(process: int, options: TrainingOptions, shared: SharedMean) -> None:
    torch.set_num_threads(1)
    with trainable_on_cpu():
        run = _Run(process, options, shared, Cache(options.cache))
        while run.progress < 1:
            run.step()


def _read_state(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
