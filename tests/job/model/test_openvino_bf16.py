"""The OpenVINO session on a bf16 artifact: near the original's answers, and the same bits again."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import job
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
from job.model.openvino_runtime.parts import FUSED, split_after_fusion
from job.model.openvino_runtime.session import OpenVinoSession

DEMO_ARTIFACT = Path(job.__file__).parent / "demo_artifact"
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
    graphs = {name: getattr(session, f"_{name}") for name in ("encoder", "fusion", "grounding", "mask_head")}
    found = {name: graph.get_property("INFERENCE_PRECISION_HINT") for name, graph in graphs.items()}
    bf16, f32 = ov.Type.bf16, ov.Type.f32
    assert found == {"encoder": bf16, "fusion": bf16, "grounding": f32, "mask_head": f32}


@needs_bfloat16
def test_two_sessions_give_the_same_bits_whatever_ran_before(
    artifact: Artifact, session: Session, text: TextFeatures, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    compiled = open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=tmp_path)
    loaded = open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=tmp_path)
    (folder,) = (tmp_path / "openvino").iterdir()
    assert len(list(folder.glob("*.blob"))) == 3
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
    core = ov.Core()
    whole = core.read_model(str(artifact.path("grounding.onnx")))
    fusion, rest = split_after_fusion(core.read_model(str(artifact.path("grounding.onnx"))), "memory")
    assert [value.any_name for value in fusion.outputs] == [FUSED]
    assert {value.any_name for value in rest.inputs} == {value.any_name for value in whole.inputs} | {FUSED}
    assert [value.any_name for value in rest.outputs] == [value.any_name for value in whole.outputs]
    products = [sum(node.get_type_name() == "MatMul" for node in model.get_ops()) for model in (fusion, rest)]
    assert min(products) > 20
    fused = next(value for value in rest.inputs if value.any_name == FUSED)
    assert any(
        reader.get_node().get_type_name() == "MatMul" for reader in fused.get_node().output(0).get_target_inputs()
    )


def test_a_graph_without_a_common_fusion_is_refused() -> None:
    ops = ov.opset13
    pixels = ops.parameter([1, 4], np.float32, name="x")
    result = ops.relu(pixels)
    result.output(0).set_names({"memory"})
    with pytest.raises(ArtifactError, match="computes memory apart from its scores"):
        split_after_fusion(ov.Model([result], [pixels]), "memory")
