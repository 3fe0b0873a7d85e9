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

from export.checkpoint import Original, demo_checkpoint_path
from export.exporter import encode_prompts
from export.graphs.graphs import graphs_of
from export.graphs.quantize import QUANTIZED_SCOPES
from export.sam3_runtime import quiet
from job.errors import ConfigurationError, DeviceError
from job.model.artifact import Artifact, file_entry, open_artifact
from job.model.integer_kernels import require_exact_integers
from job.model.loader import open_session
from job.model.onnx_session import OnnxFeatures
from job.model.prompts import stored_text_features, text_features_for
from job.model.reference import read_reference
from job.model.session import TextFeatures
from tests.export.conftest import home_and_packages
from tests.fakes import DEMO_ARTIFACT

GRAPHS = ("image_encoder", "grounding", "mask_head", "text_encoder")
Graph = Callable[..., list[NDArray[Any]]]


def load(artifact: Artifact, name: str) -> Graph:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    require_exact_integers(options)
    session = ort.InferenceSession(str(artifact.path(f"{name}.onnx")), options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


@pytest.fixture(scope="module", params=["fp32", "int8", "fp16"])
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
    coarsest = np.concatenate([encode(pixels[i : i + 1])[-1] for i in range(batch)])
    together = ground(coarsest, text.features, text.mask)
    for i in range(batch):
        for alone, batched in zip(ground(coarsest[i : i + 1], text.features, text.mask), together, strict=True):
            np.testing.assert_array_equal(alone[0], batched[i])


def test_a_prompt_gives_the_same_result_among_other_prompts(
    artifact: Artifact, pixels: NDArray[np.uint8], text: TextFeatures
) -> None:
    ground = load(artifact, "grounding")
    coarsest = load(artifact, "image_encoder")(pixels[:1])[-1]
    together = ground(coarsest, text.features, text.mask)
    for i in range(len(text.mask)):
        alone = ground(coarsest, text.features[i : i + 1], text.mask[i : i + 1])
        for one, several in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0, 0], several[0, i])


def test_a_mask_does_not_depend_on_the_other_selected_queries(
    artifact: Artifact, pixels: NDArray[np.uint8], text: TextFeatures
) -> None:
    maps = load(artifact, "image_encoder")(pixels[:1])
    _, *rows = load(artifact, "grounding")(maps[-1], text.features, text.mask)
    head = load(artifact, "mask_head")
    row = [*maps[:2], *(x[0, :1] for x in rows)]
    (every,) = head(*row, np.arange(rows[1].shape[2]))
    for selected in ([7], [3, 7], [0, 7, 29]):
        (masks,) = head(*row, np.array(selected))
        np.testing.assert_array_equal(masks, every[selected])


def test_each_row_of_a_batch_gets_the_masks_of_its_own_image(
    artifact: Artifact, pixels: NDArray[np.uint8], text: TextFeatures
) -> None:
    """A session on a CPU has one image a batch; features of several take the path of a GPU."""
    session: Any = open_session(artifact, device="cpu", threads=1)
    binding = session._encoder.io_binding()
    binding.bind_cpu_input("pixels", pixels[:3])
    for output in artifact.manifest.image_encoder.outputs:
        binding.bind_output(output.name)
    session._encoder.run_with_iobinding(binding)
    together = session.ground(OnnxFeatures(tuple(binding.get_outputs()), images=2), text, 0.4)
    assert len(together) == 2
    for i, batched in enumerate(together):
        (alone,) = session.ground(session.encode_images(pixels[i : i + 1]), text, 0.4)
        assert len(alone.selected) > 0
        np.testing.assert_array_equal(alone.selected, batched.selected)
        np.testing.assert_array_equal(alone.mask_logits, batched.mask_logits)


def test_no_dynamic_scale_spans_a_whole_tensor(exported: Callable[[str, str], Artifact]) -> None:
    for name in GRAPHS:
        model = onnx.load(exported("onnx", "int8").path(f"{name}.onnx"))
        operators = Counter(node.op_type for node in model.graph.node)
        assert not {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"} & set(operators)
        assert ("MatMulIntegerToFloat" in operators) is (name in QUANTIZED_SCOPES)


def test_attention_is_one_operator(demo_onnx: Artifact, original: Original) -> None:
    model = onnx.load(demo_onnx.path("image_encoder.onnx"))
    blocks = len(original.model.backbone.vision_backbone.trunk.blocks)
    assert Counter(node.op_type for node in model.graph.node)["Attention"] == blocks


def test_fp16_keeps_the_layers_of_the_scores_in_fp32(original: Original) -> None:
    with quiet():
        _, grounding, *_ = graphs_of(original.model, "fp16")
    kinds = {name: x.dtype for name, x in grounding.module.named_parameters()}
    exact = ("queries.scoring", "queries.presence", "queries.box_head", "queries.norm", "queries.places", "embeddings")
    assert {kinds[name] for name in kinds if name.startswith(exact)} == {torch.float32}
    assert kinds["fusion.layers.0.feed_forward.widen"] == torch.float16
    assert kinds["fusion.layers.0.norm1.weight"] == torch.float16
    assert original.model.transformer.encoder.layers[0].linear1.weight.dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_somebody_reads_the_result_of_each_node(exported: Callable[[str, str], Artifact], precision: str) -> None:
    for name in GRAPHS:
        graph = onnx.load(exported("onnx", precision).path(f"{name}.onnx")).graph
        read = {x for node in graph.node for x in node.input} | {x.name for x in graph.output}
        assert not [node.name for node in graph.node if read.isdisjoint(node.output)], name
        assert not [x.name for x in graph.initializer if x.name not in read], name
        assert not [x.name for x in graph.input if x.name not in read], name


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
