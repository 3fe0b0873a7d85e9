"""The artifact's manifest: it is read as it was written, and invalid ones are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from job.errors import ArtifactError
from job.model.artifact import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    Manifest,
    ParityFigures,
    Tolerance,
    decode_manifest,
    encode_manifest,
    open_artifact,
)
from tests.fakes import DEMO_ARTIFACT

FIGURES = ParityFigures(
    comparison="same_input",
    images=60,
    instances={"car": 212, "license_plate": 201, "person": 230},
    unmatched=0,
    score_max=1.25e-6,
    mask_iou_min=0.9999,
    mask_iou_mean=1.0,
    mask_pixels_max=1,
    tolerance=Tolerance(score=1e-4, threshold_band=0.0, mask_iou=0.999, mask_pixels=2, mask_iou_mean=0.999),
    passed=True,
    provider="CPUExecutionProvider",
    machine="a processor",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_ARTIFACT, tmp_path / "model"))


def test_a_manifest_is_unchanged_by_encoding_and_decoding() -> None:
    manifest = msgspec.structs.replace(open_artifact(DEMO_ARTIFACT).manifest, parity=(FIGURES, FIGURES))
    encoded = encode_manifest(manifest)
    assert decode_manifest(encoded, Path("x")) == manifest
    assert encode_manifest(decode_manifest(encoded, Path("x"))) == encoded
    assert encoded.endswith(b"}\n")


def test_the_manifests_fields_are_frozen() -> None:
    """Old workers read new manifests, and new workers old ones: a change here needs a new `FORMAT_VERSION`.

    `quantization` is only in manifests of models that old workers cannot run; they refuse the unknown field.
    """
    assert FORMAT_VERSION == 2
    assert Manifest.__struct_fields__ == (
        *("format_version", "model_id", "sam3_version", "checkpoint_sha256", "format", "precision", "image_side"),
        *("mean", "std", "prompts", "context_length", "image_encoder", "grounding", "mask_head"),
        *("text_encoder", "files"),
        *("parity", "weights_licence", "quantization"),
    )


def test_only_a_given_digest_is_pinned() -> None:
    artifact = open_artifact(DEMO_ARTIFACT)
    assert not artifact.pinned
    assert open_artifact(DEMO_ARTIFACT, artifact.digest.upper()).pinned


def test_another_digest_is_refused() -> None:
    with pytest.raises(ArtifactError, match="but --model_digest asks for abc"):
        open_artifact(DEMO_ARTIFACT, "abc")


@pytest.mark.parametrize("name", ["grounding.onnx", "text_features.npz"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name} is damaged"):
        open_artifact(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"tokenizer\.json cannot be read"):
        open_artifact(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "has no manifest", id="none"),
        pytest.param(b"{", "not an artifact manifest", id="broken"),
        pytest.param(b'{"format_version": 1}', "format 1, this version reads 2: export it again", id="older"),
        pytest.param(b'{"format_version": 3}', "format 3, this version reads 2: upgrade sam3-annotate", id="newer"),
        pytest.param(b'{"format_version": 2, "model_id": "SAM3"}', "not an artifact manifest", id="fields missing"),
    ],
)
def test_an_invalid_manifest_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match=words):
        open_artifact(tmp_path)
