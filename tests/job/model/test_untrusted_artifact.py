"""Artifacts that reach for files outside of their folder, or whose graphs are not those of the manifest."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

from job.errors import ArtifactError
from job.model.artifact import MANIFEST_NAME, encode_manifest, file_entry, open_artifact
from job.model.loader import check_session
from job.model.onnx_session import ORT_ERRORS, OnnxSession
from tests.fakes import DEMO_ARTIFACT

onnx = pytest.importorskip("onnx")
WEIGHTS = np.arange(4, dtype=np.float32)


@dataclass(frozen=True)
class Layout:
    """A folder of a model with a secret beside it."""

    model: Path
    secret: Path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    model, secret = tmp_path / "model", tmp_path / "secret"
    model.mkdir()
    for path in (secret, model / "weights"):
        path.write_bytes(WEIGHTS.tobytes())
    (model / "link").symlink_to(secret)
    return Layout(model, secret)


def graph_with_weights_at(location: str) -> bytes:
    """y = x + w, with w in another file."""
    weights = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    value_info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value_info("x", 1, [4])], [value_info("y", 1, [4])], [weights])
    opset = onnx.helper.make_opsetid("", 17)
    return bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString())


def loaded(layout: Layout, location: str) -> ort.InferenceSession:
    path = layout.model / "graph.onnx"
    path.write_bytes(graph_with_weights_at(location))
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_weights_in_the_folder_are_read(layout: Layout) -> None:
    (found,) = loaded(layout, "weights").run(None, {"x": np.zeros(4, np.float32)})
    assert np.array_equal(found, WEIGHTS)


@pytest.mark.parametrize("location", ["../secret", "{secret}", "link"])
def test_weights_outside_of_the_folder_are_refused(layout: Layout, location: str) -> None:
    with pytest.raises(ORT_ERRORS, match="External data path validation failed"):
        loaded(layout, location.format(secret=layout.secret))


def test_a_graph_without_a_digest_is_refused() -> None:
    artifact = open_artifact(DEMO_ARTIFACT)
    manifest = artifact.manifest
    files = {name: entry for name, entry in manifest.files.items() if name != manifest.grounding.file}
    spoilt = msgspec.structs.replace(artifact, manifest=msgspec.structs.replace(manifest, files=files))
    with pytest.raises(ArtifactError, match=f"has no digest of {manifest.grounding.file}"):
        check_session(spoilt, "cpu", "onnx")


def test_a_graph_with_other_inputs_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO_ARTIFACT, tmp_path / "model"))
    manifest = open_artifact(folder).manifest
    other, name = folder / manifest.mask_head.file, manifest.image_encoder.file
    shutil.copy(other, folder / name)
    spoilt = msgspec.structs.replace(manifest, files={**manifest.files, name: file_entry(folder / name)})
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(spoilt))
    with pytest.raises(ArtifactError, match=f"{name} has the inputs .*, the manifest says pixels"):
        OnnxSession(open_artifact(folder), device="cpu", batch_size=1, threads=1)
