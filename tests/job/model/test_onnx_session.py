"""The ONNX session on the embedded model, and the choice of a session."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from job.errors import ArtifactError, ConfigurationError, DeviceError
from job.model import loader as sessions
from job.model.artifact import Artifact, open_artifact
from job.model.loader import default_device, open_session
from job.model.prompts import text_features_for
from job.model.session import Session, TextFeatures, padded_batch, row_number, select_masks
from tests.fakes import DEMO_ARTIFACT


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return open_artifact(DEMO_ARTIFACT)


@pytest.fixture(scope="module")
def session(artifact: Artifact) -> Session:
    return open_session(artifact, device="cpu", threads=1)


def test_info_names_runtime_and_provider(session: Session) -> None:
    assert session.info.runtime == f"onnxruntime {ort.__version__}"
    assert session.info.provider == "CPUExecutionProvider"
    assert (session.info.batch_size, session.info.threads) == (1, 1)


def test_an_image_gives_scores_and_the_masks_above_the_threshold(
    session: Session, text: TextFeatures, pixels: NDArray[np.uint8]
) -> None:
    (found,) = session.ground(session.encode_images(pixels[:1]), text, 0.4)
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.selected, np.argwhere(found.scores > np.float32(0.4)))
    assert 0 < len(found.mask_logits) == len(found.selected)


def test_the_same_image_gives_the_same_bits(
    artifact: Artifact, session: Session, text: TextFeatures, pixels: NDArray[np.uint8]
) -> None:
    again = open_session(artifact, device="cpu", threads=1)
    first = session.ground(session.encode_images(pixels[:1]), text, 0.4)[0]
    session.ground(session.encode_images(pixels[1:2]), text, 0.1)
    for other in (session, again):
        second = other.ground(other.encode_images(pixels[:1]), text, 0.4)[0]
        np.testing.assert_array_equal(first.scores, second.scores)
        np.testing.assert_array_equal(first.mask_logits, second.mask_logits)


def test_a_model_without_text_encoder_accepts_stored_prompts_only(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO_ARTIFACT, tmp_path / "model"))
    whole = open_artifact(folder)
    (folder / "text_encoder.onnx").unlink()
    session = open_session(whole, device="cpu", threads=1)
    text_features_for(whole, session, ("person", "car"))
    with pytest.raises(ArtifactError, match=r"came without its text encoder text_encoder\.onnx"):
        text_features_for(whole, session, ("person", "bus"))


def test_a_graph_that_onnxruntime_cannot_read_is_a_device_error(tmp_path: Path, artifact: Artifact) -> None:
    folder = Path(shutil.copytree(DEMO_ARTIFACT, tmp_path / "model"))
    (folder / "grounding.onnx").write_bytes(b"no graph")
    with pytest.raises(DeviceError, match="ONNX Runtime failed"):
        open_session(Artifact(folder, artifact.manifest, artifact.digest), device="cpu", threads=1)


def test_an_installation_without_cuda_is_refused_with_the_package_to_install(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigurationError, match=r"--device cuda.*sam3-annotate\[gpu\]"):
        open_session(artifact, device="cuda")


def test_an_unavailable_gpu_does_not_fall_back_to_the_cpu(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    load = ort.InferenceSession
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda path, options, providers, **flags: load(path, options, ["CPUExecutionProvider"], **flags),
    )
    with pytest.raises(DeviceError, match="could not use its CUDAExecutionProvider and offers CPUExecutionProvider"):
        open_session(artifact, device="cuda")


def test_a_runtime_refuses_other_formats(artifact: Artifact) -> None:
    with pytest.raises(ConfigurationError, match=r"runs torchscript models.*is onnx: give --runtime onnx"):
        open_session(artifact, device="cpu", runtime="torch")
    other = msgspec.structs.replace(artifact.manifest, format="torchscript")
    with pytest.raises(ConfigurationError, match=r"runs onnx models.*is torchscript: give --runtime torch"):
        open_session(Artifact(artifact.folder, other, artifact.digest), device="cpu")


def test_int8_is_refused_on_cuda(artifact: Artifact) -> None:
    other = msgspec.structs.replace(artifact.manifest, precision="int8")
    with pytest.raises(ConfigurationError, match="int8, which is made for CPUs"):
        open_session(Artifact(artifact.folder, other, artifact.digest), device="cuda")


def test_torchscript_requires_a_given_digest(artifact: Artifact) -> None:
    other = msgspec.structs.replace(artifact.manifest, format="torchscript")
    with pytest.raises(ConfigurationError, match=f"--model_digest.*{artifact.digest}"):
        open_session(Artifact(artifact.folder, other, artifact.digest), device="cpu", runtime="torch")


@pytest.mark.parametrize(
    ("gpu", "has_cuda", "runtime", "device"),
    [
        (False, True, "onnx", "cpu"),
        (True, True, "onnx", "cuda"),
        (True, False, "onnx", "cpu"),
        (True, False, "torch", "cuda"),
    ],
)
def test_the_default_device_depends_on_gpu_and_installation(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, has_cuda: bool, runtime: Any, device: str
) -> None:
    providers = ["CUDAExecutionProvider"] * has_cuda + ["CPUExecutionProvider"]
    monkeypatch.setattr(sessions, "gpu_answers", lambda: gpu)
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    choice = default_device(runtime)
    assert choice.device == device
    assert choice.reason


def test_a_batch_is_padded_with_black(session: Session) -> None:
    padded = padded_batch(np.full((2, 336, 336, 3), 7, np.uint8), replace(session.info, batch_size=4))
    assert padded.shape == (4, 336, 336, 3)
    assert padded[:2].min() == 7
    assert padded[2:].max() == 0


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.2, 0.9, 1.0])
def test_only_masks_above_the_threshold_are_returned(
    session: Session, text: TextFeatures, pixels: NDArray[np.uint8], threshold: float
) -> None:
    features = session.encode_images(pixels[:1])
    (found,) = session.ground(features, text, threshold)
    (every,) = session.ground(features, text, -1.0)
    np.testing.assert_array_equal(found.selected, np.argwhere(found.scores > np.float32(threshold)))
    assert len(every.mask_logits) == found.scores.size
    prompts, queries = found.selected.T
    np.testing.assert_array_equal(found.mask_logits, every.mask_logits[prompts * found.scores.shape[1] + queries])


def test_a_prompt_gives_the_same_masks_among_other_prompts(
    session: Session, text: TextFeatures, pixels: NDArray[np.uint8]
) -> None:
    features = session.encode_images(pixels[:1])
    (together,) = session.ground(features, text, 0.4)
    for i in range(len(text.mask)):
        (alone,) = session.ground(features, TextFeatures(text.features[i : i + 1], text.mask[i : i + 1]), 0.4)
        np.testing.assert_array_equal(alone.mask_logits, together.mask_logits[together.selected[:, 0] == i])


def test_the_mask_head_runs_only_for_prompts_with_a_selected_query() -> None:
    scores = np.array([[0.1, 0.2, 0.3], [0.5, 0.1, 0.6], [np.nan, 0.1, 0.9]], np.float32)
    rows: list[tuple[int, list[int]]] = []

    def row_masks(prompt: int, queries: NDArray[np.int64]) -> NDArray[np.float32]:
        rows.append((prompt, queries.tolist()))
        return np.full((len(queries), 2, 2), prompt, np.float32)

    found = select_masks(scores, 0.4, (2, 2), row_masks)
    assert rows == [(1, [0, 2]), (2, [2])]
    assert found.selected.tolist() == [[1, 0], [1, 2], [2, 2]]
    assert found.mask_logits[:, 0, 0].tolist() == [1, 1, 2]
    assert select_masks(scores, 0.95, (2, 2), row_masks).mask_logits.shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("axes", "row"), [(("batch",), 2), (("batch", "prompts"), 7), (("prompts",), 1)], ids=["image", "both", "prompt"]
)
def test_rows_are_numbered_image_by_image(axes: tuple[str, ...], row: int) -> None:
    sizes = {"batch": 4, "prompts": 3}
    assert row_number(axes, [*(sizes[axis] for axis in axes), 48, 96], {"batch": 2, "prompts": 1}) == row
