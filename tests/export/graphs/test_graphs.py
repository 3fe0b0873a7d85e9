"""The graphs: independent of the rest of a batch, the threshold is an input, no data about this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

import job
from export.checkpoint import Original, demo_checkpoint_path
from export.exporter import encode_prompts
from export.graphs.graphs import graphs_of
from export.sam3_runtime import quiet
from job.errors import ConfigurationError, DeviceError
from job.model.artifact import Artifact, file_entry, open_artifact
from job.model.integer_kernels import require_exact_integers
from job.model.loader import open_session
from job.model.prompts import stored_text_features, text_features_for
from job.model.reference import read_reference
from job.model.session import TextFeatures
from tests.export.conftest import home_and_packages

DEMO_ARTIFACT = Path(job.__file__).parent / "demo_artifact"

THRESHOLD = np.array(0.4, np.float32)
Graph = Callable[..., list[NDArray[Any]]]


def load(artifact: Artifact, name: str) -> Graph:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    require_exact_integers(options)
    session = ort.InferenceSession(str(artifact.path(f"{name}.onnx")), options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


@pytest.fixture(scope="module", params=["fp32", "int8"])
def artifact(request: pytest.FixtureRequest, exported: Callable[[str, str], Artifact]) -> Artifact:
    return exported("onnx", request.param)


@pytest.fixture(scope="module")
def pixels(demo_onnx: Artifact) -> NDArray[np.uint8]:
    shown = read_reference(demo_onnx.path("reference.npz")).pixels
    return np.concatenate((shown, shown[:, ::-1]))


@pytest.fixture(scope="module")
def text(demo_onnx: Artifact) -> TextFeatures:
    stored = [stored_text_features(demo_onnx)[prompt] for prompt in demo_onnx.manifest.prompts]
    return TextFeatures(np.concatenate([x.features for x in stored]), np.concatenate([x.mask for x in stored]))


@pytest.mark.parametrize("batch", [2, 4])
def test_an_image_is_encoded_as_in_a_batch(artifact: Artifact, pixels: NDArray[np.uint8], batch: int) -> None:
    encode = load(artifact, "image_encoder")
    together = encode(pixels[:batch])
    for i in range(batch):
        for alone, batched in zip(encode(pixels[i : i + 1]), together, strict=True):
            np.testing.assert_array_equal(alone[0], batched[i])


@pytest.mark.parametrize("batch", [2, 4])
def test_an_image_is_grounded_as_in_a_batch(
    artifact: Artifact, pixels: NDArray[np.uint8], text: TextFeatures, batch: int
) -> None:
    encode, ground = load(artifact, "image_encoder"), load(artifact, "grounding")
    features = [encode(pixels[i : i + 1]) for i in range(batch)]
    maps = [np.concatenate(same) for same in zip(*features, strict=True)]
    scores, selected, masks = ground(*maps, text.features, text.mask, THRESHOLD)
    assert len(selected) > 0
    for i in range(batch):
        alone = ground(*features[i], text.features, text.mask, THRESHOLD)
        mine = selected[:, 0] == i
        np.testing.assert_array_equal(alone[0][0], scores[i])
        np.testing.assert_array_equal(alone[1][:, 1:], selected[mine][:, 1:])
        np.testing.assert_array_equal(alone[2], masks[mine])


def test_a_prompt_gives_the_same_result_among_other_prompts(
    artifact: Artifact, pixels: NDArray[np.uint8], text: TextFeatures
) -> None:
    encode, ground = load(artifact, "image_encoder"), load(artifact, "grounding")
    maps = encode(pixels[:1])
    scores, selected, masks = ground(*maps, text.features, text.mask, THRESHOLD)
    for i in range(len(text.mask)):
        alone = ground(*maps, text.features[i : i + 1], text.mask[i : i + 1], THRESHOLD)
        np.testing.assert_array_equal(alone[0][0, 0], scores[0, i])
        np.testing.assert_array_equal(alone[2], masks[selected[:, 1] == i])


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.2, 0.4, 0.9, 1.0])
def test_only_masks_above_the_threshold_are_returned(
    artifact: Artifact, pixels: NDArray[np.uint8], text: TextFeatures, threshold: float
) -> None:
    maps = load(artifact, "image_encoder")(pixels[:2])
    limit = np.array(threshold, np.float32)
    scores, selected, masks = load(artifact, "grounding")(*maps, text.features, text.mask, limit)
    np.testing.assert_array_equal(selected, np.argwhere(scores > limit))
    assert len(masks) == len(selected)
    assert scores.dtype == masks.dtype == np.float32


def test_no_dynamic_scale_spans_a_whole_tensor(exported: Callable[[str, str], Artifact]) -> None:
    for name in ("image_encoder", "grounding", "text_encoder"):
        model = onnx.load(exported("onnx", "int8").path(f"{name}.onnx"))
        operators = Counter(node.op_type for node in model.graph.node)
        assert not {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"} & set(operators)
        assert ("MatMulIntegerToFloat" in operators) is (name != "text_encoder")


def test_attention_is_one_operator(demo_onnx: Artifact, original: Original) -> None:
    model = onnx.load(demo_onnx.path("image_encoder.onnx"))
    blocks = len(original.model.backbone.vision_backbone.trunk.blocks)
    assert Counter(node.op_type for node in model.graph.node)["Attention"] == blocks


def test_fp16_keeps_the_layers_of_the_scores_in_fp32(original: Original) -> None:
    with quiet():
        _, grounding, _ = graphs_of(original.model, "fp16")
    kinds = {name: x.dtype for name, x in grounding.module.named_parameters()}
    exact = ("queries.scoring", "queries.decoder.presence", "queries.decoder.bbox_embed", "queries.decoder.norm")
    assert {kinds[name] for name in kinds if name.startswith(exact)} == {torch.float32}
    assert kinds["fusion.layers.0.linear1.layer.weight"] == torch.float16
    assert kinds["fusion.layers.0.norm1.layer.weight"] == torch.float32
    assert original.model.transformer.encoder.layers[0].linear1.weight.dtype == torch.float32


@pytest.mark.parametrize(("graph_format", "precision"), [("onnx", "fp32"), ("onnx", "int8"), ("torchscript", "fp32")])
def test_no_file_holds_data_about_the_exporting_machine(
    exported: Callable[[str, str], Artifact], graph_format: str, precision: str
) -> None:
    for path in exported(graph_format, precision).folder.iterdir():
        content = path.read_bytes()
        for secret in home_and_packages():
            assert secret not in content, path.name


def test_graph_files_are_small(demo_onnx: Artifact, exported: Callable[[str, str], Artifact]) -> None:
    assert sum(entry.size for entry in demo_onnx.manifest.files.values()) < 8_000_000
    assert demo_onnx.manifest.files["text_encoder.onnx"].size < 200_000
    assert exported("torchscript", "fp32").manifest.files["text_encoder.torchscript"].size < 400_000


def test_the_embedded_model_is_made_from_the_demo_checkpoint() -> None:
    embedded = open_artifact(DEMO_ARTIFACT).manifest
    assert embedded.checkpoint_sha256 == file_entry(demo_checkpoint_path()).sha256
    assert (embedded.model_id, embedded.weights_licence) == ("SAM3-demo", "Apache-2.0")
    assert [figures.passed for figures in embedded.parity] == [True, True]
    assert sum(entry.size for entry in embedded.files.values()) < 12_000_000


@pytest.mark.parametrize("graph_format", ["onnx", "torchscript"])
def test_prompts_that_are_not_stored_are_encoded_as_the_original_does(
    original: Original, exported: Callable[[str, str], Artifact], graph_format: str
) -> None:
    artifact = exported(graph_format, "fp32")
    runtime: Any = "torch" if graph_format == "torchscript" else "onnx"
    session = open_session(artifact, device="cpu", threads=1, runtime=runtime)
    prompts = ("car", "a red bus", "Straße &amp; Café", "person")
    ours = text_features_for(artifact, session, prompts)
    theirs = encode_prompts(original, prompts)
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    np.testing.assert_allclose(ours.features, theirs.features, atol=1e-5)
    alone = text_features_for(artifact, session, prompts[1:2])
    np.testing.assert_array_equal(alone.features[0], ours.features[1])


def test_torchscript_archives_have_no_debugging_files(exported: Callable[[str, str], Artifact]) -> None:
    for path in Path(exported("torchscript", "fp32").folder).glob("*.torchscript"):
        assert b"debug_pkl" not in path.read_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_torch_without_a_gpu_does_not_fall_back(exported: Callable[[str, str], Artifact]) -> None:
    with pytest.raises((ConfigurationError, DeviceError), match="--device cuda: "):
        open_session(exported("torchscript", "fp32"), device="cuda", runtime="torch")
