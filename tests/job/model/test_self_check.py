"""The self-check: a session that does not reproduce the stored reference answers annotates nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import job.model.self_check
from job.errors import ArtifactError, DeviceError, SelfCheckError
from job.model.artifact import MANIFEST_NAME, Artifact, Manifest, encode_manifest, file_entry, open_artifact
from job.model.loader import open_session
from job.model.self_check import SelfCheck, self_check
from job.model.session import Grounding, ImageFeatures, Session, SessionInfo, TextFeatures
from job.postprocess.masks import full_mask
from job.run.options import WorkerOptions
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import DEMO_ARTIFACT, request_of, write_inputs
from tests.processes import annotate as annotate_in_process

Change = Callable[[Grounding], Grounding]


@dataclass
class ChangedSession:
    """A real session whose answers are changed, as a faulty kernel changes them; counts the images that it encodes."""

    inner: Session
    change: Change
    info: SessionInfo
    images: int = 0

    def encode_images(self, pixels: NDArray[np.uint8]) -> ImageFeatures:
        self.images += len(pixels)
        return self.inner.encode_images(pixels)

    def ground(self, features: ImageFeatures, text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        return tuple(self.change(found) for found in self.inner.ground(features, text, score_threshold))

    def encode_text(self, token_ids: NDArray[np.int64]) -> TextFeatures:
        return self.inner.encode_text(token_ids)


def unchanged(found: Grounding) -> Grounding:
    return found


def collapsed(found: Grounding) -> Grounding:
    """Scores near zero for everything, as reported of fp16 engines."""
    return Grounding(found.scores * np.float32(1e-4), found.selected[:0], found.mask_logits[:0])


def scores_with_nan(found: Grounding) -> Grounding:
    """NaN in a query that nothing selects: the instances are all right."""
    scores = found.scores.copy()
    scores[tuple(np.argwhere(scores < 0.3)[0])] = np.nan
    return replace(found, scores=scores)


def masks_with_nan(found: Grounding) -> Grounding:
    return replace(found, mask_logits=np.where(found.mask_logits > 2, np.float32(np.nan), found.mask_logits))


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return open_artifact(DEMO_ARTIFACT)


@pytest.fixture(scope="module")
def inner(artifact: Artifact) -> Session:
    return open_session(artifact, device="cpu", threads=1)


@pytest.fixture
def session(inner: Session) -> ChangedSession:
    return ChangedSession(inner, unchanged, inner.info)


def large(artifact: Artifact) -> Artifact:
    """The same model with the identifier of the official one, whose check takes minutes."""
    return msgspec.structs.replace(artifact, manifest=msgspec.structs.replace(artifact.manifest, model_id="SAM3"))


def records(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*"))[1:]


def reseal(folder: Path, **changes: Any) -> Artifact:
    """Update the manifest for changed files."""
    manifest = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=Manifest)
    entries = {name: file_entry(folder / name) for name in manifest.files}
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=entries, **changes)))
    return open_artifact(folder)


def saturated(folder: Path) -> Artifact:
    """A copy of the model whose image encoder multiplies wrongly, with the right reference answers.

    A part of its weights is clipped, as sums that saturate are.
    """
    shutil.copytree(DEMO_ARTIFACT, folder)
    content = np.frombuffer((folder / "image_encoder.onnx").read_bytes(), np.uint8).copy()
    weights = content[len(content) // 2 : len(content) // 2 + 40_000].view(np.float32)
    finite = np.isfinite(weights) & (np.abs(weights) < 10)
    weights[finite] = np.clip(weights[finite], -0.02, 0.02)
    (folder / "image_encoder.onnx").write_bytes(content.tobytes())
    return reseal(folder)


def test_correct_answers_pass(artifact: Artifact, session: ChangedSession) -> None:
    check = self_check(artifact, session, full_mask)
    assert check is not None
    assert check.figures.passed
    assert (check.figures.images, sum(check.figures.instances.values())) == (2, 13)
    assert len(check.digest) == 16
    assert check == self_check(artifact, session, full_mask, mode="always")


@pytest.mark.parametrize("change", [collapsed, scores_with_nan, masks_with_nan])
@pytest.mark.parametrize("mode", ["cached", "always"])
def test_wrong_answers_are_refused_with_figures(
    artifact: Artifact, session: ChangedSession, tmp_path: Path, change: Change, mode: Any
) -> None:
    session.change = change
    for model in (artifact, large(artifact)):
        with pytest.raises(SelfCheckError, match=r"does not reproduce .* DISAGREES on \d images .* unmatched"):
            self_check(model, session, full_mask, mode=mode, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_wrong_graph_annotates_nothing(tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", 2)
    model = saturated(tmp_path / "model")
    completed = annotate_in_process(tmp_path / "in", tmp_path / "out", "--model", str(model.folder))
    assert completed.returncode == SelfCheckError.exit_code == 70
    assert "does not reproduce the reference answers" in completed.stderr
    assert "DISAGREES" in completed.stderr
    assert not list((tmp_path / "out").glob("*.json"))
    unchecked = annotate_in_process(
        tmp_path / "in", tmp_path / "out", "--model", str(model.folder), "--self_check", "off"
    )
    assert unchecked.returncode == 0


def test_a_provider_that_falls_back_annotates_nothing(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ort.InferenceSession
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda path, options, providers, **flags: load(path, options, ["CPUExecutionProvider"], **flags),
    )
    write_inputs(tmp_path / "in", 1)
    with pytest.raises(DeviceError, match="could not use its CUDAExecutionProvider"):
        annotate(request_of(tmp_path / "in", tmp_path / "out", options=WorkerOptions(device="cuda")), Tally())
    assert not list((tmp_path / "out").glob("*.json"))


def test_rows_carry_the_digest_of_the_check(tmp_path: Path, artifact: Artifact) -> None:
    write_inputs(tmp_path / "in", 1)
    options = WorkerOptions(device="cpu", threads=1)
    annotate(request_of(tmp_path / "in", tmp_path / "out", options=options), Tally())
    check = self_check(artifact, open_session(artifact, device="cpu", threads=1), full_mask)
    assert check is not None
    rows = [
        json.loads(line) for part in (tmp_path / "out").rglob("journal/*/*") for line in part.read_text().splitlines()
    ]
    assert [row["self_check"] for row in rows if row["row"] == "result"] == [check.digest]


def test_a_large_model_is_checked_once_with_one_image(
    artifact: Artifact, session: ChangedSession, tmp_path: Path
) -> None:
    first = self_check(large(artifact), session, full_mask, cache=tmp_path)
    assert session.images == 1
    assert first is not None
    assert max(first.figures.instances.values()) > 0
    again = self_check(large(artifact), session, full_mask, cache=tmp_path)
    assert session.images == 1
    assert again == first
    assert len(records(tmp_path)) == 1
    self_check(large(artifact), session, full_mask, mode="always", cache=tmp_path)
    assert session.images == 3


@pytest.mark.parametrize(
    "changes", [{"threads": 2}, {"runtime": "onnxruntime 9"}, {"provider": "OtherExecutionProvider"}]
)
def test_another_session_is_checked_again(
    artifact: Artifact, session: ChangedSession, tmp_path: Path, changes: dict[str, Any]
) -> None:
    self_check(large(artifact), session, full_mask, cache=tmp_path)
    session.info = replace(session.info, **changes)
    self_check(large(artifact), session, full_mask, cache=tmp_path)
    assert session.images == 2


def test_another_processor_or_artifact_is_checked_again(
    artifact: Artifact, session: ChangedSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    self_check(large(artifact), session, full_mask, cache=tmp_path)
    other = msgspec.structs.replace(large(artifact), digest="0" * 64)
    self_check(other, session, full_mask, cache=tmp_path)
    monkeypatch.setattr(job.model.self_check, "instruction_set", lambda: "x86_64-of another machine")
    self_check(large(artifact), session, full_mask, cache=tmp_path)
    assert session.images == 3


def test_on_an_accelerator_every_row_of_the_batch_is_checked_each_time(
    artifact: Artifact, session: ChangedSession, tmp_path: Path
) -> None:
    session.info = replace(session.info, threads=0)
    for images in (2, 4):
        self_check(large(artifact), session, full_mask, cache=tmp_path)
        assert session.images == images
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", None], ids=["empty", "no fields", "no text", "of another"])
def test_a_damaged_record_is_no_check(
    artifact: Artifact, session: ChangedSession, tmp_path: Path, content: bytes | None
) -> None:
    check = self_check(large(artifact), session, full_mask, cache=tmp_path)
    assert check is not None
    (path,) = records(tmp_path)
    other = SelfCheck(key=msgspec.structs.replace(check.key, threads=9), figures=check.figures)
    path.write_bytes(msgspec.json.encode(other) if content is None else content)
    assert self_check(large(artifact), session, full_mask, cache=tmp_path) == check
    assert session.images == 2
    assert msgspec.json.decode(path.read_bytes(), type=SelfCheck) == check


def test_a_cache_that_cannot_be_written_is_no_error(
    artifact: Artifact, session: ChangedSession, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        assert self_check(large(artifact), session, full_mask, cache=tmp_path / "file") is not None
    assert session.images == 2


def test_a_user_without_a_home_folder(
    artifact: Artifact, session: ChangedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert self_check(large(artifact), session, full_mask) is not None


def test_off_runs_no_check(artifact: Artifact, session: ChangedSession) -> None:
    assert self_check(artifact, session, full_mask, mode="off") is None
    assert session.images == 0


def test_an_artifact_without_its_reference_is_refused(tmp_path: Path, session: ChangedSession) -> None:
    folder = Path(shutil.copytree(DEMO_ARTIFACT, tmp_path / "model"))
    artifact = open_artifact(folder)
    (folder / "reference.npz").write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match=r"reference\.npz cannot be read"):
        self_check(artifact, session, full_mask)
    os.unlink(folder / "reference.npz")
    with pytest.raises(ArtifactError, match=r"came without reference\.npz"):
        self_check(artifact, session, full_mask)
