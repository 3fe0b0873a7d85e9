"""Checkpoints in each layout give the same model, and SAM 3.1 the same graphs, as SAM 3 with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from export import checkpoint
from export.checkpoint import Original, demo_checkpoint_path, load_original
from export.demo_model.architecture import build_model, load_checkpoint
from export.exporter import write_files
from export.parity.original import OriginalSide
from job.errors import ConfigurationError
from job.model.artifact import Artifact
from tests.export.layouts import sam3_layout, sam31_layout

PROMPTS = ("car",)


def before_release(model: Any) -> dict[str, Tensor]:
    renamed = {"detector.": "sam3_model.", "tracker.": "sam2_predictor."}
    layout = sam31_layout(model)
    return {renamed[key.split(".")[0] + "."] + key.partition(".")[2]: value for key, value in layout.items()}


def of_the_trainer(model: Any) -> dict[str, Any]:
    clicks = {"inst_interactive_predictor.model.maskmem_tpos_enc": torch.zeros(1)}
    return {"model": {**model.state_dict(), **clicks}, "optimizer": {"state": {}}, "epoch": 3, "steps": {"train": 9}}


def in_half_precision(model: Any) -> dict[str, Tensor]:
    return {key: x.half() if x.is_floating_point() else x for key, x in sam31_layout(model).items()}


@pytest.fixture
def demo_size(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The demo model, and the sizes of it for whatever the loader builds, with other weights."""
    model, config = load_checkpoint(demo_checkpoint_path())
    monkeypatch.setattr(checkpoint, "build_official", lambda: build_model(config, seed=1))
    return model


def saved(content: dict[str, Any], folder: Path) -> str:
    torch.save(content, folder / "checkpoint.pt")
    return str(folder / "checkpoint.pt")


def scores(original: Original) -> Any:
    pixels = np.random.default_rng(0).integers(0, 256, (336, 336, 3), dtype=np.uint8)
    answer, _ = OriginalSide(original.model, PROMPTS, 0.4, "cpu").answer(pixels, (96, 96))
    return answer.scores


@pytest.mark.parametrize(
    ("layout", "model_id"),
    [
        pytest.param(sam3_layout, "SAM3", id="SAM 3"),
        pytest.param(sam31_layout, "SAM3.1", id="SAM 3.1"),
        pytest.param(before_release, "SAM3.1", id="before release"),
        pytest.param(of_the_trainer, "SAM3", id="trainer"),
        pytest.param(lambda model: {"model": sam31_layout(model)}, "SAM3.1", id="inside a dictionary"),
        pytest.param(in_half_precision, "SAM3.1", id="float16"),
    ],
)
def test_each_layout_gives_the_same_model(
    demo_size: Any, original: Original, tmp_path: Path, layout: Callable[[Any], dict[str, Any]], model_id: str
) -> None:
    loaded = load_original(saved(layout(demo_size), tmp_path))
    assert loaded.model_id == model_id
    assert not loaded.is_demo
    assert all(parameter.dtype == torch.float32 for parameter in loaded.model.parameters())
    assert np.array_equal(scores(loaded), scores(original))


def test_sam_31_exports_to_the_graphs_of_the_same_weights_with_four_levels(
    demo_size: Any, demo_onnx: Artifact, tmp_path: Path
) -> None:
    """The slow tests compare the two official layouts at full size."""
    checkpoint_path = saved(sam31_layout(demo_size), tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    written = write_files(load_original(checkpoint_path), folder, "onnx", "fp32").manifest
    assert written.model_id == "SAM3.1"
    assert set(written.files) == set(demo_onnx.manifest.files) - {"reference.npz"}
    assert written.files.items() <= demo_onnx.manifest.files.items()


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("detector.backbone.vision_backbone.convs.2.conv_1x1.weight", r"misses weights \(1\): .*convs\.2\.conv_1x1"),
        ("detector.transformer.decoder.presence_token.weight", r"misses weights \(1\): .*presence_token"),
    ],
)
def test_a_weight_that_sam_31_has_must_not_be_missing(demo_size: Any, tmp_path: Path, lost: str, words: str) -> None:
    layout = sam31_layout(demo_size)
    del layout[lost]
    with pytest.raises(ConfigurationError, match=words):
        load_original(saved(layout, tmp_path))


def test_a_part_of_the_unread_level_is_an_error(demo_size: Any, tmp_path: Path) -> None:
    layout = sam3_layout(demo_size)
    del layout["detector.backbone.vision_backbone.convs.3.conv_1x1.weight"]
    with pytest.raises(ConfigurationError, match=r"misses weights \(1\): .*convs\.3\.conv_1x1"):
        load_original(saved(layout, tmp_path))


def test_an_unknown_weight_of_the_detector_is_an_error(demo_size: Any, tmp_path: Path) -> None:
    layout = {**sam31_layout(demo_size), "detector.transformer.extra": torch.zeros(1)}
    with pytest.raises(ConfigurationError, match=r"has unknown weights \(1\): transformer\.extra"):
        load_original(saved(layout, tmp_path))


def test_a_loaded_checkpoint_is_not_kept_in_memory(demo_size: Any, tmp_path: Path) -> None:
    """A second copy of the weights would take 3.4 GB at SAM 3's size."""
    path = saved(sam3_layout(demo_size), tmp_path)
    loaded = load_original(path)
    assert loaded.model is not None
    assert path not in Path("/proc/self/maps").read_text(encoding="utf-8")
