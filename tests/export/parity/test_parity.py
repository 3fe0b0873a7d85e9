"""Exported graphs agree with sam3's processor; a graph that does not agree is detected."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from torchvision.transforms import v2

from export.demo_model.scenes.scenes import draw_scene
from export.parity.original import OriginalSide
from job.errors import UsageError, WorkerError
from job.model.answers import Answer, QueryAnswer
from job.model.artifact import MANIFEST_NAME, Artifact, encode_manifest, file_entry, open_artifact
from job.model.comparison import QUERY_ERRORS, TOLERANCES, Tally, describe, report
from job.model.processor import computes_bfloat16
from tests.export.conftest import ALL_SCENES, FEW_SCENES, MANY_SCENES, export_demo, run_verify
from tests.fakes import DEMO_ARTIFACT

NEEDS_BFLOAT16 = pytest.mark.skipif(not computes_bfloat16(), reason="no AVX512-BF16 and no AMX")
KINDS = [
    ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("torchscript", "fp32"), ("torchscript", "fp16"),
    pytest.param("onnx", "bf16", marks=[NEEDS_BFLOAT16, pytest.mark.slow]),
]  # fmt: skip


@pytest.mark.parametrize(("graph_format", "precision"), KINDS)
def test_an_export_is_kept_only_if_it_meets_its_tolerances(
    exported: Callable[[str, str], Artifact], graph_format: str, precision: str
) -> None:
    manifest = exported(graph_format, precision).manifest
    assert [figures.comparison for figures in manifest.parity] == ["same_input", "end_to_end"]
    for figures in manifest.parity:
        assert figures.passed
        assert figures.tolerance == TOLERANCES[manifest.precision, figures.comparison]
        assert figures.images == (MANY_SCENES if (graph_format, precision) == ("onnx", "fp32") else FEW_SCENES)


@pytest.mark.parametrize(
    ("scenes", "instances"), [(MANY_SCENES, 40), pytest.param(ALL_SCENES, 200, marks=pytest.mark.slow)]
)
def test_the_command_line_compares_enough_of_every_class(scenes: int, instances: int) -> None:
    for figures in export_demo("onnx", "fp32", scenes).manifest.parity:
        assert figures.passed
        assert figures.images == scenes
        assert set(figures.instances) == {"car", "license_plate", "person"}
        assert min(figures.instances.values()) >= instances, figures.instances


@pytest.mark.parametrize(("graph_format", "precision"), KINDS)
def test_an_artifact_is_verified_without_its_checkpoint(
    exported: Callable[[str, str], Artifact], graph_format: str, precision: str
) -> None:
    artifact = exported(graph_format, precision)
    result = run_verify(artifact.folder, "--device", "cpu", "--model_digest", artifact.digest)
    assert "same_input: agrees on 2 images" in result.output


@pytest.mark.parametrize(
    ("graph", "weight"),
    [
        ("image_encoder", "trunk.patches.weight.half"),
        ("mask_head", "convolutions.1.weight.half"),
    ],
)
def test_one_weight_changed_by_one_percent_is_detected(
    demo_onnx: Artifact, tmp_path: Path, graph: str, weight: str
) -> None:
    folder = tmp_path / "disturbed"
    shutil.copytree(demo_onnx.folder, folder)
    disturb(folder / f"{graph}.onnx", weight, 0.01)
    reseal(folder)
    with pytest.raises(WorkerError, match="does not give the original's answers"):
        run_verify(folder, "--device", "cpu", "--checkpoint", "demo", "--image_count", FEW_SCENES)
    with pytest.raises(WorkerError, match="does not give the original's answers"):
        run_verify(folder, "--device", "cpu")


def test_another_presence_is_detected_by_the_scores(tmp_path: Path) -> None:
    """No output of a graph is the presence alone: it is a factor of the scores of all queries of a prompt."""
    folder = Path(shutil.copytree(DEMO_ARTIFACT, tmp_path / "other"))
    model = onnx.load(folder / "grounding.onnx")
    (bias,) = (x for x in model.graph.initializer if x.name == "queries.presence_head.layers.2.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.05), bias.name))
    onnx.save(model, folder / "grounding.onnx")
    reseal(folder)
    with pytest.raises(WorkerError, match="does not give the original's answers"):
        run_verify(folder, "--device", "cpu")


def test_given_images_are_compared_upright(demo_onnx: Artifact, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_scene(3).image.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    draw_scene(4).image.save(tmp_path / "plain.png")
    result = run_verify(
        demo_onnx.folder, "--device", "cpu", "--checkpoint", "demo", "--images", tmp_path, "--image_count", 5
    )
    assert "end_to_end: agrees on 2 images" in result.output


def test_images_without_the_original_are_refused(demo_onnx: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--images needs --checkpoint"):
        run_verify(demo_onnx.folder, "--device", "cpu", "--images", tmp_path)


def test_a_folder_without_images_is_refused(demo_onnx: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no \.jpg"):
        run_verify(demo_onnx.folder, "--device", "cpu", "--checkpoint", "demo", "--images", tmp_path)


def test_a_checkpoint_of_another_artifact_is_refused(demo_onnx: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(demo_onnx.folder, folder)
    manifest = msgspec.structs.replace(demo_onnx.manifest, checkpoint_sha256="0" * 64)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    with pytest.raises(UsageError, match="was made from the checkpoint 0000"):
        run_verify(folder, "--device", "cpu", "--checkpoint", "demo")


def answer(score: float, mask: list[int], threshold: float = 0.4) -> Answer:
    scores = np.array([[score]], np.float32)
    masks = (np.array([mask], np.bool_),) if score > threshold else ()
    return Answer(scores=scores, selected=np.argwhere(scores > threshold), masks=masks)


@pytest.mark.parametrize(
    ("theirs", "ours", "passed"),
    [
        pytest.param(answer(0.5, [1, 1, 0]), answer(0.5, [1, 1, 0]), True, id="equal"),
        pytest.param(answer(0.5, [1, 1, 0]), answer(0.50005, [1, 1, 0]), True, id="score near"),
        pytest.param(answer(0.5, [1, 1, 0]), answer(0.5002, [1, 1, 0]), False, id="score far"),
        pytest.param(answer(0.5, [1] * 3000 + [0]), answer(0.5, [1] * 3000 + [1]), True, id="a pixel of many"),
        pytest.param(answer(0.5, [1] * 900 + [0] * 3), answer(0.5, [1] * 903), False, id="three pixels of few"),
        pytest.param(answer(0.5, [1, 1, 0]), answer(0.39, [1, 1, 0]), False, id="only theirs"),
        pytest.param(answer(0.39, [1, 1, 0]), answer(0.5, [1, 1, 0]), False, id="only ours"),
        pytest.param(answer(0.1, [1]), answer(0.1, [1]), False, id="nothing to compare"),
    ],
)
def test_agreement_depends_on_the_tolerances(theirs: Answer, ours: Answer, passed: bool) -> None:
    tally = Tally(("license plate",), 0.4)
    tally.add(theirs, ours)
    figures = tally.figures("fp32", "same_input", provider="CPUExecutionProvider", machine="x")
    # The mean is held to what every mask is held to; one mask two pixels off may miss it.
    assert figures.passed is passed
    assert set(figures.instances) == {"license_plate"}


def test_an_instance_near_the_threshold_may_be_missing_end_to_end() -> None:
    tally = Tally(("car",), 0.4)
    tally.add(answer(0.4005, [1]), answer(0.3999, [1]))
    tally.add(answer(0.6, [1]), answer(0.6, [1]))
    figures = tally.figures("fp32", "end_to_end", provider="CPUExecutionProvider", machine="x")
    assert figures.passed
    assert figures.unmatched == 1


@pytest.mark.parametrize(("others", "passed"), [(198, False), (199, True)])
def test_int8_allows_one_outlier_in_two_hundred_masks(others: int, passed: bool) -> None:
    tally = Tally(("car",), 0.4)
    tally.add(answer(0.5, [1] * 50 + [0] * 50), answer(0.5, [1] * 100))
    for _ in range(others):
        tally.add(answer(0.5, [1]), answer(0.5, [1]))
    assert tally.figures("int8", "same_input", provider="CPU", machine="x").passed is passed


def queries(logits: list[float]) -> QueryAnswer:
    return QueryAnswer(np.zeros((1, 1), np.float32), np.array(logits, np.float32).reshape(1, 1, 1, -1))


@pytest.mark.parametrize(
    ("theirs", "ours", "passed"),
    [
        pytest.param([1, -1], [1, -1], True, id="equal"),
        pytest.param([1, -1], [1.00001, -1], True, id="logits near"),
        pytest.param([1, -1], [1.001, -1], False, id="logits far"),
        pytest.param([1, -1], [1, np.nan], False, id="NaN logits"),
    ],
)
def test_without_an_instance_the_mask_logits_of_all_queries_are_compared(
    theirs: list[float], ours: list[float], passed: bool
) -> None:
    tally = Tally(("car",), 0.4)
    tally.add(answer(0.1, [1]), answer(0.1, [1]))
    tally.add_queries(queries(theirs), queries(ours))
    figures = tally.figures("fp32", "same_input", provider="CPU", machine="x")
    assert figures.passed is passed
    assert (figures.instances, figures.queries) == ({"car": 0}, 1)
    assert figures.tolerance.query_error == QUERY_ERRORS["fp32"]
    assert "both sides found nothing in these pictures" in describe(figures)


def matrix(*rows: list[float]) -> Answer:
    """Scores of two prompts; the instances above the threshold all have one mask."""
    scores = np.array(rows, np.float32)
    selected = np.argwhere(scores > 0.4)
    return Answer(scores=scores, selected=selected, masks=(np.ones((2, 2), np.bool_),) * len(selected))


@pytest.mark.parametrize(
    ("plates", "passed"),
    [
        pytest.param([0.002, 0.001], True, id="equal"),
        pytest.param([0.0020001, 0.001], True, id="near"),
        pytest.param([0.0022, 0.0011], False, id="presence ten percent larger"),
        pytest.param([0.00202, 0.00101], False, id="presence one percent larger"),
        pytest.param([0.001, 0.002], False, id="queries exchanged"),
        pytest.param([0.3, 0.001], False, id="a query just below the threshold"),
        pytest.param([0.0, 0.0], False, id="collapsed"),
        pytest.param([np.nan, 0.001], False, id="NaN"),
    ],
)
def test_all_scores_are_compared_beside_equal_instances(plates: list[float], passed: bool) -> None:
    """One prompt has the same instances on both sides; the scores of the other one, which has none, decide."""
    tally = Tally(("car", "license plate"), 0.4)
    tally.add(matrix([0.9, 0.1], [0.002, 0.001]), matrix([0.9, 0.1], plates))
    figures = tally.figures("fp32", "same_input", provider="CPU", machine="x")
    assert figures.passed is passed
    assert figures.queries == 4


def test_prompts_without_an_instance_are_named_as_not_proved() -> None:
    tally = Tally(("car", "license plate", "person"), 0.4)
    for _ in range(15):
        both = matrix([0.9, 0.1], [0.002, 0.001], [0.3, 0.001])
        tally.add(both, both)
    figures = tally.figures("fp32", "same_input", provider="CPU", machine="x")
    assert figures.passed
    assert figures.unproved == ("license_plate", "person")
    assert "(15 car, 0 license_plate, 0 person; unmatched 0)" in describe(figures)
    assert "not proved for license_plate, person: these pictures have no instance" in report(figures)
    tally.add(*[matrix([0.9, 0.1], [0.9, 0.1], [0.9, 0.1])] * 2)
    figures = tally.figures("fp32", "same_input", provider="CPU", machine="x")
    assert (figures.unproved, report(figures)) == ((), describe(figures))


def test_pictures_without_an_instance_are_a_sentence_of_their_own(demo_onnx: Artifact, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (640, 480), (128, 128, 128)).save(tmp_path / f"{name}.png")
    result = run_verify(demo_onnx.folder, "--device", "cpu", "--checkpoint", "demo", "--images", tmp_path)
    for comparison in ("same_input", "end_to_end"):
        assert (
            f"{comparison}: agrees on 2 images (both sides found nothing in these pictures); all 180" in result.output
        )
        assert f"{comparison}: not proved for car, license_plate, person: " in result.output


def test_the_resize_of_a_gpu_is_within_the_tolerance(demo_onnx: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU torch resizes in floating point, and a sixth of the pixels differ by one level."""

    def resize(side: OriginalSide, picture: Image.Image) -> NDArray[np.uint8]:
        tensor = v2.functional.to_image(picture).float()
        resized = v2.functional.resize(tensor, [demo_onnx.manifest.image_side] * 2).round().to(torch.uint8)
        return np.asarray(resized.permute(1, 2, 0).numpy())

    monkeypatch.setattr(OriginalSide, "resize", resize)
    result = run_verify(demo_onnx.folder, "--device", "cpu", "--checkpoint", "demo", "--image_count", 6)
    same_input, end_to_end = result.output.splitlines()[-2:]
    assert "same_input: agrees on 6 images" in same_input
    assert "end_to_end: agrees on 6 images" in end_to_end
    assert same_input.removeprefix("same_input") != end_to_end.removeprefix("end_to_end")


def test_equal_queries_do_not_excuse_an_instance_that_one_side_misses() -> None:
    tally = Tally(("car",), 0.4)
    tally.add(answer(0.5, [1]), answer(0.3, [1]))
    tally.add_queries(queries([1]), queries([1]))
    assert not tally.figures("fp32", "same_input", provider="CPU", machine="x").passed


def test_a_score_that_is_not_finite_disagrees() -> None:
    tally = Tally(("car",), 0.4)
    good = Answer(np.array([[0.5, 0.1]], np.float32), np.array([[0, 0]]), (np.ones((2, 2), np.bool_),))
    tally.add(good, replace(good, scores=np.array([[0.5, np.nan]], np.float32)))
    assert not tally.figures("fp32", "same_input", provider="CPU", machine="x").passed


def disturb(path: Path, weight: str, share: float) -> None:
    """Increase or decrease every number of a weight at random by a fraction."""
    model = onnx.load(path)
    (tensor,) = (x for x in model.graph.initializer if x.name == weight)
    values = numpy_helper.to_array(tensor)
    factors = 1 + share * np.random.default_rng(0).choice((-1, 1), values.shape)
    tensor.CopyFrom(numpy_helper.from_array((values * factors).astype(values.dtype), tensor.name))
    onnx.save(model, path)


def reseal(folder: Path) -> None:
    """Update the manifest for changed files."""
    manifest = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes())
    for name in manifest["files"]:
        entry = file_entry(folder / name)
        manifest["files"][name] = {"sha256": entry.sha256, "size": entry.size}
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    open_artifact(folder)
