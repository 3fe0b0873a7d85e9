"""The OpenVINO session on a bf16 artifact: near the original's answers, and the same bits again."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from job.errors import ArtifactError, DeviceError, UnusableDeviceError
from job.model import processor
from job.model.artifact import MANIFEST_NAME, Artifact, encode_manifest, open_artifact
from job.model.comparison import TOLERANCES
from job.model.loader import check_session, open_session
from job.model.session import Session, TextFeatures
from tests.job.model.groundings import assert_equal, ground
from tests.job.model.openvino_runtime.runs import check_stored_answers, check_two_runs

pytest.importorskip("openvino")
import openvino as ov

from job.model.openvino_runtime import session as module
from job.model.openvino_runtime.parts import split_after_fusion, split_before_text
from job.model.openvino_runtime.session import OpenVinoSession
from tests.fakes import DEMO_ARTIFACT

TEXT = ("text_features", "text_mask")
needs_bfloat16 = pytest.mark.skipif(not processor.computes_bfloat16(), reason="no AVX512-BF16 and no AMX")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The demo model as bf16: the graphs of an fp32 export."""
    folder = Path(shutil.copytree(DEMO_ARTIFACT, tmp_path_factory.mktemp("model") / "bf16"))
    manifest = open_artifact(folder).manifest
    parity = tuple(
        msgspec.structs.replace(figures, tolerance=TOLERANCES["bf16", figures.comparison])
        for figures in manifest.parity
    )
    manifest = msgspec.structs.replace(manifest, precision="bf16", parity=parity)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return open_artifact(folder)


@pytest.fixture(scope="module")
def session(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(
        artifact, device="cpu", threads=1, runtime="openvino", cache=tmp_path_factory.mktemp("bf16-cache")
    )


@needs_bfloat16
def test_the_answers_are_near_those_of_the_original_and_not_those_of_float32(
    artifact: Artifact, session: Session
) -> None:
    why = "float32 throughout gives 1e-6, bfloat16 throughout 0.025"
    check = check_stored_answers(artifact, session, 0.015, why)
    assert check.figures.mask_iou_mean > 0.997
    assert check.key.precision == "bf16"


@needs_bfloat16
def test_each_graph_has_its_own_arithmetic(session: OpenVinoSession) -> None:
    fusion, decoding = session._prompt_parts
    graphs = (session._encoder, session._image_part, fusion, decoding, session._mask_head)
    bf16, f32 = ov.Type.bf16, ov.Type.f32
    assert [graph.get_property("INFERENCE_PRECISION_HINT") for graph in graphs] == [bf16, bf16, bf16, f32, f32]


@needs_bfloat16
def test_two_sessions_give_the_same_bits_whatever_ran_before(
    artifact: Artifact, session: Session, text: TextFeatures, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    compiled = open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=tmp_path)
    loaded = open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=tmp_path)
    (folder,) = (tmp_path / "openvino").iterdir()
    assert len(list(folder.glob("*.blob"))) == 4
    first = ground(session, pixels[:1], text)
    ground(session, pixels[1:2], text, 0.1)
    for other in (session, compiled, loaded):
        assert_equal(first, ground(other, pixels[:1], text))


@needs_bfloat16
def test_other_prompts_and_queries_change_no_byte(
    session: Session, text: TextFeatures, pixels: NDArray[np.uint8]
) -> None:
    features = session.encode_images(pixels[:1])
    (together,) = session.ground(features, text, 0.4)
    (every,) = session.ground(features, text, -1.0)
    prompts, queries = together.selected.T
    np.testing.assert_array_equal(together.mask_logits, every.mask_logits[prompts * together.scores.shape[1] + queries])
    for i in range(len(text.mask)):
        (alone,) = session.ground(features, TextFeatures(text.features[i : i + 1], text.mask[i : i + 1]), 0.4)
        np.testing.assert_array_equal(alone.scores[0], together.scores[i])
        np.testing.assert_array_equal(alone.mask_logits, together.mask_logits[together.selected[:, 0] == i])


@needs_bfloat16
def test_a_run_needs_no_flag_and_its_rows_name_the_precision(artifact: Artifact, tmp_path: Path) -> None:
    check_two_runs(artifact, tmp_path)
    parts = (tmp_path / "one/_sam3/runs/run").rglob("journal/**/*.jsonl*")
    assert any('"precision":"bf16"' in part.read_text().replace(" ", "") for part in parts)


def test_a_processor_without_bfloat16_is_told_before_anything_is_loaded(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "instruction_names", lambda: ("avx2", "avx512f", "avx512_vnni"))
    with pytest.raises(UnusableDeviceError, match="is bf16, and this processor has neither AVX512-BF16 nor AMX-BF16"):
        check_session(artifact, "cpu", "openvino")


def test_another_arithmetic_than_the_artifact_s_is_refused(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = module._options
    monkeypatch.setattr(module, "_options", lambda threads, _, cache: options(threads, ov.Type.f32, cache))
    with pytest.raises(DeviceError, match=r"in <Type: 'float32'> and not in <Type: 'bfloat16'>"):
        OpenVinoSession(artifact, threads=1, cache=tmp_path)


def test_the_parts_together_compute_the_whole(artifact: Artifact) -> None:
    core, whole = ov.Core(), _grounding_graph(artifact)
    image, rest = split_before_text(_grounding_graph(artifact), TEXT)
    fusion, decoding = split_after_fusion(rest, "memory", TEXT)
    rng = np.random.default_rng(5)
    inputs = {
        value.any_name: rng.standard_normal(value.shape, np.float32)
        for value in whole.inputs
        if value.any_name != "text_mask"
    }
    inputs["text_mask"] = np.arange(whole.input("text_mask").shape[1])[None] > 4
    exact = {"INFERENCE_PRECISION_HINT": ov.Type.f32}
    expected = module._run(core.compile_model(whole, "CPU", exact), inputs)
    for part in (image, fusion, decoding):
        inputs = inputs | module._run(core.compile_model(part, "CPU", exact), inputs)
    for name, value in expected.items():
        np.testing.assert_allclose(inputs[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_prompt_repeats_nothing_that_depends_on_the_image_alone(artifact: Artifact) -> None:
    whole = _grounding_graph(artifact)
    tokens = whole.input("feature_2").shape[2] ** 2
    image, rest = split_before_text(whole, TEXT)
    assert {value.any_name for value in image.inputs} == {"feature_2"}
    assert "feature_2" not in {value.any_name for value in rest.inputs}
    after = _products(rest)
    fusion, decoding = split_after_fusion(rest, "memory", TEXT)
    first, second, third = (_products(part) for part in (image, fusion, decoding))
    assert first
    assert first.keys().isdisjoint(after)
    assert second.keys().isdisjoint(third)
    assert second | third == after
    # Image tokens are projected by the first two parts, but for what the mask head reads.
    assert sum(tokens in shape for shape in third.values()) == 1


def _grounding_graph(artifact: Artifact) -> ov.Model:
    """The graph for one image and one prompt."""
    spec = artifact.manifest.grounding
    model = ov.Core().read_model(str(artifact.path(spec.file)))
    model.reshape({x.name: [size if isinstance(size, int) else 1 for size in x.shape] for x in spec.inputs})
    return model


def _products(model: ov.Model) -> dict[str, list[int]]:
    """Shapes of all products by name."""
    nodes = (node for node in model.get_ops() if node.get_type_name() == "MatMul")
    return {node.get_name(): list(node.output(0).shape) for node in nodes}


def test_a_graph_without_a_common_fusion_is_refused() -> None:
    ops = ov.opset13
    pixels = ops.parameter([1, 4], np.float32, name="x")
    result = ops.relu(pixels)
    result.output(0).set_names({"memory"})
    with pytest.raises(ArtifactError, match="computes memory apart from its scores"):
        split_after_fusion(ov.Model([result], [pixels]), "memory", ())
