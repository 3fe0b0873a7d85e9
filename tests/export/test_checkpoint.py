"""Checkpoints: the official layout is loaded strictly, and invalid checkpoints are refused."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NoReturn

import httpx
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from safetensors.torch import save_file

from export import sam3_runtime
from export.checkpoint import Original, load_original
from export.checkpoint_file import read_checkpoint
from export.checkpoint_layout import detector_weights, load_strictly
from export.sam3_runtime import quiet
from job.errors import AnnotateError, ConfigurationError, UsageError
from tests.export.conftest import run_export

PATH = Path("sam3.pt")


def official_layout(model: Any) -> dict[str, torch.Tensor]:
    weights = {f"detector.{key}": x for key, x in model.state_dict().items()}
    weights["detector.backbone.vision_backbone.sam2_convs.0.conv_1x1.weight"] = torch.zeros(1)
    weights["tracker.maskmem_tpos_enc"] = torch.zeros(1)
    return weights


def test_the_official_layout_loads(original: Original) -> None:
    weights = detector_weights(official_layout(original.model), PATH).tensors
    assert set(weights) == set(original.model.state_dict())
    load_strictly(original.model, weights, PATH)


def test_safetensors_of_the_official_layout_are_read(original: Original, tmp_path: Path) -> None:
    layout = {name: weight for name, weight in official_layout(original.model).items() if not weight.is_complex()}
    save_file(layout, tmp_path / "sam3.safetensors")
    weights = detector_weights(read_checkpoint(tmp_path / "sam3.safetensors"), PATH).tensors
    load_strictly(original.model, weights, PATH)
    assert all(torch.equal(weight, original.model.state_dict()[name]) for name, weight in weights.items())


def test_computed_constants_may_be_missing(original: Original) -> None:
    weights = {k: x for k, x in original.model.state_dict().items() if not k.endswith("freqs_cis")}
    load_strictly(original.model, weights, PATH)


def test_a_missing_weight_is_named(original: Original) -> None:
    weights = dict(original.model.state_dict())
    del weights["transformer.decoder.presence_token.weight"]
    with pytest.raises(ConfigurationError, match=r"misses weights \(1\): transformer\.decoder\.presence_token\.weight"):
        load_strictly(original.model, weights, PATH)


def test_an_unknown_weight_is_named(original: Original) -> None:
    weights = {**original.model.state_dict(), "transformer.extra": torch.zeros(1)}
    with pytest.raises(ConfigurationError, match=r"has unknown weights \(1\): transformer\.extra"):
        load_strictly(original.model, weights, PATH)


def test_a_misshapen_weight_is_named(original: Original) -> None:
    weights = {**original.model.state_dict(), "geometry_encoder.cls_embed.weight": torch.zeros(3, 3)}
    with pytest.raises(ConfigurationError, match=r"has misshapen weights \(1\): geometry_encoder\.cls_embed"):
        load_strictly(original.model, weights, PATH)


def test_keys_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"not an official sam3\.pt.*image_encoder\.blocks\.0"):
        detector_weights({"image_encoder.blocks.0": torch.zeros(1)}, PATH)


def test_a_checkpoint_of_the_tracker_alone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="none of the detector"):
        detector_weights({"tracker.x": torch.zeros(1)}, PATH)


def garbage(path: Path) -> None:
    path.write_bytes(b"no checkpoint" * 100)


def transformers_library(path: Path) -> None:
    save_file({"detector_model.vision_encoder.backbone.layer_norm.weight": torch.zeros(1)}, path)


def number_for_a_tensor(path: Path) -> None:
    torch.save({"detector.x": 3}, path)


def truncated(path: Path) -> None:
    torch.save({"model": {"detector.x": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


def tensor_alone(path: Path) -> None:
    torch.save(torch.zeros(3), path)


def foreign(path: Path) -> None:
    torch.save({"model": {"backbone.x": torch.zeros(1)}}, path)


def code(path: Path) -> None:
    torch.save({"model": Path}, path)


def numpy_scalar(path: Path) -> None:
    torch.save({"model": {"detector.x": torch.zeros(1)}, "epoch": np.float64(3)}, path)


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>You need access to this file</body></html>", encoding="utf-8")


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 3450000000\n", encoding="utf-8")


def torn_safetensors(path: Path) -> None:
    path.write_bytes((200).to_bytes(8, "little") + b'{"a":{"dtype":"F32"')


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        pytest.param(None, UsageError, "no such file", id="missing"),
        pytest.param(garbage, ConfigurationError, "not a checkpoint of torch.save or safetensors", id="garbage"),
        pytest.param(truncated, ConfigurationError, "damaged or incomplete: download", id="truncated"),
        pytest.param(Path.mkdir, UsageError, r"is a folder: give the file in it, as in .*sam3\.pt", id="a folder"),
        pytest.param(Path.touch, ConfigurationError, "is an empty file", id="empty"),
        pytest.param(web_page, ConfigurationError, "is an HTML page", id="a web page"),
        pytest.param(lfs_pointer, ConfigurationError, r"a Git LFS pointer \(git lfs pull", id="a Git LFS pointer"),
        pytest.param(torn_safetensors, ConfigurationError, "a damaged safetensors file", id="torn safetensors"),
        pytest.param(numpy_scalar, ConfigurationError, r"holds numpy.*\.scalar, and only tensors", id="numpy scalar"),
        pytest.param(tensor_alone, ConfigurationError, "holds a Tensor", id="a tensor"),
        pytest.param(transformers_library, ConfigurationError, "transformers library.*Give sam3.pt", id="transformers"),
        pytest.param(number_for_a_tensor, ConfigurationError, r"no tensors: x", id="a number"),
        pytest.param(foreign, ConfigurationError, "not an official", id="another model's"),
        pytest.param(code, ConfigurationError, "read safely: it holds pathlib", id="code"),
    ],
)
def test_an_invalid_checkpoint_is_refused_and_nothing_is_written(
    tmp_path: Path, make: Any, error: type[AnnotateError], words: str
) -> None:
    checkpoint, out = tmp_path / "given.pt", tmp_path / "out"
    if make is not None:
        make(checkpoint)
    with pytest.raises(error, match=words):
        run_export("--checkpoint", checkpoint, "--out", out, "--device", "cpu")
    assert not out.exists()


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        pytest.param(GatedRepoError, "accept its licence", id="gated"),
        pytest.param(LocalEntryNotFoundError, "could not be downloaded", id="offline"),
    ],
)
def test_a_failed_download_names_the_next_step(
    monkeypatch: pytest.MonkeyPatch, raised: type[Exception], words: str
) -> None:
    def refuse(**_: object) -> NoReturn:
        response = httpx.Response(403, request=httpx.Request("GET", "https://hub.test"))
        raise raised("no", response=response) if raised is GatedRepoError else raised("no")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    for checkpoint, repository in (("hub", "facebook/sam3"), ("hub:facebook/sam3.1", r"facebook/sam3\.1")):
        with pytest.raises(ConfigurationError, match=f"{repository}[: ].*{words}|{words}.*{repository}:"):
            load_original(checkpoint)


def test_each_repository_of_the_hub_has_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def fetch(*, repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        torch.save({"tracker.x": torch.zeros(1)}, tmp_path / filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    for checkpoint in ("hub", "hub:facebook/sam3", "hub:facebook/sam3.1"):
        with pytest.raises(ConfigurationError, match="none of the detector"):
            load_original(checkpoint)
    sam3, sam31 = ("facebook/sam3", "sam3.pt"), ("facebook/sam3.1", "sam3.1_multiplex.pt")
    assert asked == [sam3, sam3, sam31]


def test_another_repository_of_the_hub_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`hub:facebook/sam3` or `hub:facebook/sam3\.1`"):
        load_original("hub:someone/sam3")


def test_int8_is_refused_for_torchscript(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --format onnx"):
        run_export(*("--checkpoint", "demo", "--out", tmp_path / "x", "--format", "torchscript", "--precision", "int8"))


def test_the_official_model_has_the_official_checkpoints_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector of sam3's video model is what the official checkpoint holds."""
    from sam3.model_builder import build_sam3_video_model

    from export.checkpoint import build_official

    # Without memory for the weights; only this is read back while the model is built.
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with quiet(), sam3_runtime.running_on("cpu"), torch.device("meta"):
        image_model = build_official()
        video_model = build_sam3_video_model(bpe_path=sam3_runtime.vocabulary_path(), load_from_HF=False, device="meta")
    held = detector_weights(video_model.state_dict(), PATH).tensors
    assert set(held) == set(image_model.state_dict())
