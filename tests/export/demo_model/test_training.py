from __future__ import annotations

import copy
import dataclasses
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from export.checkpoint import demo_checkpoint_path
from export.demo_model.architecture import (
    TOKEN_TABLE,
    DemoConfig,
    build_model,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from export.demo_model.evaluation import EvaluationOptions, evaluate
from export.demo_model.scenes.dataset import Cache
from export.demo_model.scenes.prompts import UNKNOWN_WORDS, WORDS
from export.demo_model.training.batches import BatchOptions, draw_batch
from export.demo_model.training.gradients import SharedMean
from export.demo_model.training.grounding import trainable_on_cpu
from export.demo_model.training.learner import Learner, LearnerOptions
from export.demo_model.training.training import CHECKPOINT, Stage, TrainingOptions, rate_at, stage_at, train
from job.errors import ConfigurationError

SMALL = DemoConfig(
    image_side_px=112, vit_dim=16, vit_depth=2, vit_heads=2, vit_mlp_ratio=2.0, vit_global_blocks=(1,), dim=16,
    heads=2, feed_forward_dim=32, encoder_layers=1, decoder_layers=2, queries=8, score_dim=16, text_dim=8,
    text_heads=2,
)  # fmt: skip
BATCH = BatchOptions(pictures=2, prompts=2, image_side_px=112, mask_side_px=64)


def options(folder: Path, cache: Path, minutes: float) -> TrainingOptions:
    return TrainingOptions(
        folder=folder,
        cache=cache,
        learner=LearnerOptions(config=SMALL),
        minutes=minutes,
        stages=(Stage(112, 0.5, is_dense=True), Stage(112, 0.5)),
        processes=1,
        pictures=1,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_cache_folder: Path) -> TrainingOptions:
    run = options(tmp_path_factory.mktemp("run"), small_cache_folder, minutes=0.03)
    train(run)
    return run


def test_ten_steps_on_one_batch_reduce_its_loss(small_cache: Cache) -> None:
    batch = draw_batch(small_cache, BATCH, random.Random(1))
    learner = Learner(LearnerOptions(config=SMALL), 112)
    with trainable_on_cpu():
        totals = []
        for _ in range(10):
            totals.append(learner.backward(batch)["total"])
            learner.update(learner.gradient(), 2e-3)
    assert totals[-1] < totals[0]
    assert learner.steps == 10


def test_gradient_that_is_not_finite_is_skipped(small_cache: Cache) -> None:
    learner = Learner(LearnerOptions(config=SMALL), 112)
    before = {name: value.detach().clone() for name, value in learner.parameters.items()}
    learner.update(torch.full_like(learner.gradient(), torch.nan), 1e-3)
    assert all(torch.equal(before[name], value) for name, value in learner.parameters.items())


def test_unknown_words_and_padding_are_zero_in_the_token_table(trained: TrainingOptions) -> None:
    table = read_checkpoint(trained.folder / CHECKPOINT)["model"][TOKEN_TABLE]
    known = table.abs().sum(1) > 0
    words = {part for words in WORDS.values() for word in words for part in word.split()}
    assert 0 < int(known.sum()) <= len(words) * 2 + 2


def test_training_writes_a_checkpoint_and_resumes_from_its_state(trained: TrainingOptions) -> None:
    model, config = load_checkpoint(trained.folder / CHECKPOINT)
    assert config == SMALL
    assert not model.training
    before = torch.load(trained.folder / "training.pt", weights_only=True)
    # From the time that was really taken: on a busy machine a step may last longer than the whole run should.
    train(dataclasses.replace(trained, minutes=before["elapsed_s"] / 60 + 0.01))
    after = torch.load(trained.folder / "training.pt", weights_only=True)
    assert after["steps"] > before["steps"] > 0
    assert after["elapsed_s"] > before["elapsed_s"]


def test_log_is_json_lines(trained: TrainingOptions) -> None:
    lines = (trained.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines
    assert all({"step", "s", "rate", "total"} <= set(json.loads(line)) for line in lines)


def test_batch_prompts_classes_and_unknown_words(small_cache: Cache) -> None:
    batches = [draw_batch(small_cache, BATCH, random.Random(seed)) for seed in range(30)]
    for batch in batches:
        assert batch.images.shape == (2, 3, 112, 112)
        assert batch.images.abs().max() <= 1
        assert len(batch.picture_of_pair) == len(batch.word_of_pair) == len(batch.targets.masks) == 4
        assert all(masks.shape[1:] == (64, 64) for masks in batch.targets.masks)
    asked = {word for batch in batches for word in batch.words}
    assert asked & set(UNKNOWN_WORDS)
    assert {"car", "license plate", "person"} <= asked


def test_unknown_word_finds_nothing(small_cache: Cache) -> None:
    for seed in range(30):
        batch = draw_batch(small_cache, BATCH, random.Random(seed))
        for word, boxes in zip(batch.word_of_pair.tolist(), batch.targets.boxes_cxcywh, strict=True):
            assert batch.words[word] not in UNKNOWN_WORDS or not len(boxes)


def test_processes_get_the_mean_of_their_vectors() -> None:
    mean = SharedMean(2, 3)
    shared = [mean, copy.copy(mean)]
    with ThreadPoolExecutor(2) as pool:
        means = list(pool.map(lambda p: _twice(shared[p], p), range(2)))
    assert all(torch.equal(first, torch.full((3,), 0.5)) for first, _ in means)
    assert all(torch.equal(second, torch.full((3,), 1.5)) for _, second in means)


def _twice(shared: SharedMean, process: int) -> tuple[torch.Tensor, torch.Tensor]:
    return _mean_in_turn(shared, process, 0), _mean_in_turn(shared, process, 1)


def _mean_in_turn(shared: SharedMean, process: int, plus: int) -> torch.Tensor:
    return shared.of(torch.full((3,), float(process + plus)), process)


def test_schedule_passes_its_stages_and_decays(tmp_path: Path) -> None:
    run = options(tmp_path, tmp_path, minutes=1)
    assert [stage_at(run.stages, progress).is_dense for progress in (0.0, 0.49, 0.51, 1.0, 1.2)] == [
        True, True, False, False, False,
    ]  # fmt: skip
    rates = [rate_at(run, progress, steps=1000) for progress in (0.0, 0.25, 0.5, 1.0, 1.1)]
    assert rates == sorted(rates, reverse=True)
    assert rate_at(run, 0.0, steps=0) < rates[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"image_side_px": 120}, "multiple", id="no whole patches"),
        pytest.param({"image_side_px": 126}, "multiple", id="no whole windows"),
        pytest.param({"vit_global_blocks": (0,)}, "lacks the last", id="features from a windowed block"),
    ],
)
def test_invalid_sizes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        dataclasses.replace(SMALL, **change)  # type: ignore[arg-type]


def test_saved_checkpoint_equals_the_weights_in_half_precision(tmp_path: Path) -> None:
    model = build_model(SMALL, seed=3)
    save_checkpoint(tmp_path / "checkpoint.pt", SMALL, model.state_dict())
    loaded, config = load_checkpoint(tmp_path / "checkpoint.pt")
    assert config == SMALL
    for (name, value), (other_name, other) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other_name
        assert value.dtype == other.dtype
        torch.testing.assert_close(value, other, atol=1e-3, rtol=1e-3)


def test_same_seed_builds_the_same_model_and_keeps_the_random_state() -> None:
    torch.manual_seed(1)
    first = build_model(SMALL, seed=3).state_dict()
    second = build_model(SMALL, seed=3).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    chance = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(chance, torch.rand(1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda c: c.update(format="other/1"), "format 'other/1'", id="format"),
        pytest.param(lambda c: c.pop("config"), "no sizes.*NoneType", id="no sizes"),
        pytest.param(lambda c: c["config"].pop("dim"), "'dim'", id="size missing"),
        pytest.param(lambda c: c["model"].pop(TOKEN_TABLE), "1 weights are missing", id="weight missing"),
        pytest.param(lambda c: c["model"].update(more=torch.zeros(1)), "unknown.*: more", id="weight unknown"),
        pytest.param(lambda c: c.update(model=None), "weights as", id="no weights"),
    ],
)
def test_damaged_checkpoint_is_refused(tmp_path: Path, spoil: object, message: str) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, SMALL, build_model(SMALL, seed=0).state_dict())
    content = torch.load(path, weights_only=True)
    spoil(content)  # type: ignore[operator]
    torch.save(content, path)
    with pytest.raises(ConfigurationError, match=message):
        load_checkpoint(path)


def test_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ConfigurationError, match="no checkpoint that can be read"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_shipped_checkpoint_is_small_and_of_the_usual_sizes() -> None:
    _, config = load_checkpoint(demo_checkpoint_path())
    assert config == DemoConfig()
    assert demo_checkpoint_path().stat().st_size < 6_000_000


def test_shipped_checkpoint_finds_cars_and_plates_and_no_dogs() -> None:
    figures = evaluate(demo_checkpoint_path(), EvaluationOptions(scenes=4, seed=5_000_100, unknown_scenes=1))
    assert figures.classes["car"].recall > 0.5
    assert figures.classes["license plate"].recall > 0.5
    assert figures.unknown[1] == 0
