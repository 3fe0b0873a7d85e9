"""Int8 for OpenVINO: constant scales from pictures, and fewer rounded tensors where the comparison fails."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

pytest.importorskip("openvino")

from export import exporter
from export.calibrated import drafts
from export.calibrated.drafts import calibrated
from export.calibrated.observation import Observation, observe, sites_of
from export.calibrated.rounding import SitePlan, plan_site
from export.cli import export
from export.demo_model.scenes.scenes import draw_scene
from export.exporter import ExportRequest
from export.parity.recording import Recording
from export.parity.reference import write_reference
from job.errors import ConfigurationError
from job.model import comparison
from job.model.artifact import MANIFEST_NAME, Artifact, encode_manifest, file_entry, open_artifact
from job.model.comparison import TOLERANCES
from job.model.loader import open_session
from job.model.openvino_runtime.session import OpenVinoSession
from job.model.processor import instruction_names, multiplies_integers
from job.model.reference import REFERENCE_NAME, read_reference
from tests.export.conftest import run_export, run_verify
from tests.fakes import DEMO_ARTIFACT
from tests.job.model.openvino_runtime.runs import check_stored_answers, check_two_runs, run_flags
from tests.processes import annotate

pytestmark = pytest.mark.torch
needs_integers = pytest.mark.skipif(not multiplies_integers(), reason="no VNNI and no AMX")
ENCODER = "image_encoder.onnx"
PRODUCTS = {"attention.input": 3, "attention.output": 1, "feed_forward.widen": 1, "feed_forward.narrow": 1}


def draft_in(folder: Path) -> Artifact:
    """The embedded model in another folder, as a draft of int8."""
    artifact = open_artifact(Path(shutil.copytree(DEMO_ARTIFACT, folder)))
    return msgspec.structs.replace(
        artifact, digest="", manifest=msgspec.structs.replace(artifact.manifest, precision="int8", parity=())
    )


def finished(draft: Artifact) -> Artifact:
    """A draft with its manifest written."""
    files = {path.name: file_entry(path) for path in draft.folder.iterdir() if path.name in draft.manifest.files}
    manifest = msgspec.structs.replace(draft.manifest, files=files)
    (draft.folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return open_artifact(draft.folder)


def stored_pixels() -> list[np.ndarray]:
    return list(read_reference(DEMO_ARTIFACT / REFERENCE_NAME).pixels)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """All tensors rounded, calibrated on the two stored pictures."""
    with calibrated(draft_in(tmp_path_factory.mktemp("int8") / "model"), stored_pixels(), 1) as encoder:
        return finished(next(encoder.drafts()))


@pytest.fixture(scope="module")
def session(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> OpenVinoSession:
    cache = tmp_path_factory.mktemp("int8-cache")
    session = open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=cache)
    assert isinstance(session, OpenVinoSession)
    return session


def test_the_sites_are_all_products_of_the_blocks() -> None:
    model = ir.load(DEMO_ARTIFACT / ENCODER)
    sites = sites_of(model)
    blocks = len(sites) // len(PRODUCTS)
    expected = [f"blocks.{i}.{part}" for i in range(blocks) for part in PRODUCTS]
    assert [site.name for site in sites] == expected
    assert [len(site.products) for site in sites] == list(PRODUCTS.values()) * blocks
    assert sum(node.op_type == "MatMul" for node in model.graph) == sum(len(site.products) for site in sites)


def test_every_picture_widens_the_ranges() -> None:
    path, pixels = DEMO_ARTIFACT / ENCODER, stored_pixels()
    sites = sites_of(ir.load(path))[:4]
    both, images = observe(path, sites, pixels, 1)
    alone = [observe(path, sites, [image], 1)[0] for image in pixels]
    assert images == len(pixels) == 2
    for site in sites:
        seen = [each[site.name] for each in alone]
        np.testing.assert_array_equal(both[site.name].lowest, np.minimum(seen[0].lowest, seen[1].lowest))
        np.testing.assert_array_equal(both[site.name].highest, np.maximum(seen[0].highest, seen[1].highest))
        np.testing.assert_array_equal(both[site.name].rows, seen[0].rows)
        assert (seen[0].rows >= seen[0].lowest).all()
        assert (seen[0].rows <= seen[0].highest).all()


def test_smoothing_removes_the_error_of_an_outlier_channel() -> None:
    random = np.random.default_rng(1)
    rows, weight = (random.standard_normal(shape).astype(np.float32) for shape in ((256, 64), (64, 32)))
    usual = plan_site(Observation(rows.min(0), rows.max(0), rows), [weight])
    rows[:, 5] *= 100
    weight[5] /= 100
    plan = plan_site(Observation(rows.min(0), rows.max(0), rows), [weight])
    assert plan.smoothing[5] < np.median(plan.smoothing) / 5
    assert plan.error < 2 * usual.error < 0.05
    assert 0 < plan.zero < 255


def test_the_smallest_of_equally_sensitive_tensors_stay_first() -> None:
    plan = SitePlan(np.ones(4, np.float32), np.float32(1), np.uint8(0), error=0.02, weight_count=100)
    assert dataclasses.replace(plan, error=0.04, weight_count=400).error_per_weight == plan.error_per_weight
    assert dataclasses.replace(plan, weight_count=50).error_per_weight == 2 * plan.error_per_weight


@needs_integers
def test_the_answers_are_near_those_of_the_original_by_integer_kernels(
    artifact: Artifact, session: OpenVinoSession
) -> None:
    check_stored_answers(artifact, session, 0.02)
    nodes = session._encoder.get_runtime_model().get_ops()
    kernels = Counter(
        node.get_rt_info()["primitiveType"].astype(str)
        for node in nodes
        if node.get_rt_info()["layerType"].astype(str).startswith("FullyConnected")
    )
    assert sum(count for name, count in kernels.items() if name.endswith("_I8")) == sum(kernels.values()) == 24, kernels


@needs_integers
def test_a_run_needs_no_flag_and_gives_the_same_bytes_again(artifact: Artifact, tmp_path: Path) -> None:
    check_two_runs(artifact, tmp_path)
    refused = annotate(tmp_path / "in", tmp_path / "three", "--runtime", "onnx", *run_flags(artifact, tmp_path))
    assert refused.returncode == 78
    assert "is int8, made for OpenVINO: give --runtime openvino" in refused.stderr


FEATURES = """
import sys
from pathlib import Path
import numpy as np
import job.model.openvino_runtime.session as session
from job.model.artifact import open_artifact
from job.model.reference import read_reference
session.computes_bfloat16 = lambda: False
artifact = open_artifact(Path(sys.argv[1]))
pixels = read_reference(artifact.path("reference.npz")).pixels[:1]
features = session.OpenVinoSession(artifact, threads=1, cache=Path(sys.argv[2])).encode_images(pixels)
np.save(sys.argv[3], features.maps["feature_2"])
"""


@pytest.mark.slow
@pytest.mark.skipif("amx_int8" not in instruction_names(), reason="no AMX")
@pytest.mark.parametrize(
    ("instructions", "is_exact"), [("AVX512_CORE_VNNI", True), ("AVX2_VNNI", True), ("AVX2", False)]
)
def test_processors_with_vnni_give_the_features_of_amx_and_those_without_do_not(
    artifact: Artifact, tmp_path: Path, instructions: str, is_exact: bool
) -> None:
    """oneDNN's own variable hides instructions of this processor; the rest computes in float32."""
    features = []
    for name, variables in (("all", {}), (instructions, {"ONEDNN_MAX_CPU_ISA": instructions})):
        file = tmp_path / f"{name}.npy"
        command = [sys.executable, "-c", FEATURES, artifact.folder, tmp_path / "cache", file]
        subprocess.run(command, check=True, env={**os.environ, **variables})
        features.append(np.load(file))
    error = np.linalg.norm(features[1] - features[0]) / np.linalg.norm(features[0])
    # Float sums in another order move single values over the border of two levels.
    assert (error < 5e-3) if is_exact else (error > 0.02), error


def test_the_same_pictures_give_the_same_file(artifact: Artifact, tmp_path: Path) -> None:
    with calibrated(draft_in(tmp_path / "model"), stored_pixels(), 1) as encoder:
        written = encoder.drafts()
        next(written)
        assert file_entry(tmp_path / "model" / ENCODER) == artifact.manifest.files[ENCODER]
        assert artifact.manifest.files[ENCODER].size < 0.8 * (DEMO_ARTIFACT / ENCODER).stat().st_size
        kept = next(written).manifest.quantization
    assert kept is not None
    assert (kept.calibration_images, kept.rounded, len(kept.kept)) == (2, 15, 1)
    assert not (tmp_path / "model/.float32").exists()


def test_weights_in_a_second_file_give_the_same_file(artifact: Artifact, tmp_path: Path) -> None:
    draft = draft_in(tmp_path / "model")
    ir.save(ir.load(DEMO_ARTIFACT / ENCODER), draft.folder / ENCODER, external_data=f"{ENCODER}.data")
    with calibrated(draft, stored_pixels(), 1) as encoder:
        next(encoder.drafts())
    assert [path.name for path in draft.folder.glob(f"{ENCODER}*")] == [ENCODER]
    assert file_entry(draft.folder / ENCODER) == artifact.manifest.files[ENCODER]


@needs_integers
def test_the_first_draft_that_agrees_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in [key for key in TOLERANCES if key[0] == "int8"]:
        limits = msgspec.structs.replace(TOLERANCES[key], mask_iou_mean=0.9965)  # all rounded 0.9961, but one 0.9970
        monkeypatch.setitem(comparison.TOLERANCES, key, limits)
    compare, agreed = exporter._compare, []

    def compare_and_record(*arguments: Any) -> Any:
        parity, stored = compare(*arguments)
        agreed.append(all(figures.passed for figures in (*parity, stored)))
        return parity, stored

    monkeypatch.setattr(exporter, "_compare", compare_and_record)
    agreeing, parity = exporter._agreeing(draft_in(tmp_path / "model"), _request(tmp_path), _recorded(tmp_path))
    assert len(agreed) > 1
    assert agreed == [False] * (len(agreed) - 1) + [True]
    assert agreeing.manifest.quantization is not None
    kept = agreeing.manifest.quantization.kept
    assert len(kept) == drafts.STEPS[len(agreed) - 1]
    assert kept[0] == "blocks.0.feed_forward.narrow"
    assert all(figures.passed for figures in parity)
    for key in [key for key in TOLERANCES if key[0] == "int8"]:
        limits = msgspec.structs.replace(TOLERANCES[key], score=1e-6)
        monkeypatch.setitem(comparison.TOLERANCES, key, limits)
    monkeypatch.setattr(drafts, "STEPS", (8,))
    with pytest.raises(ConfigurationError, match="do not agree with the original"):
        exporter._agreeing(draft_in(tmp_path / "again"), _request(tmp_path), _recorded(tmp_path))


def _recorded(folder: Path) -> Recording:
    """The stored answers, as a recording of the original."""
    stored, recorded = read_reference(DEMO_ARTIFACT / REFERENCE_NAME), Recording(folder)
    for i, (pixels, answer) in enumerate(zip(stored.pixels, stored.answers, strict=True)):
        write_reference(folder / f"{i}.npz", [pixels], [answer], stored.grid_hw)
        recorded._pictures.append((folder / f"{i}.npz", folder / f"{i}.npz"))
    return recorded


def _request(folder: Path) -> ExportRequest:
    return ExportRequest(
        out=folder / "out", format="onnx", precision="int8", images=None, image_count=None, device="cpu", threads=1,
        runtime="openvino", calibration=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--precision int8 --calibration .", "--calibration is for --precision int8 --runtime openvino"),
        ("--precision fp32 --runtime openvino --calibration .", "--calibration is for --precision int8"),
        ("--precision bf16 --runtime onnx", "--runtime onnx does not run --precision bf16"),
        ("--precision fp16 --runtime openvino", "--runtime openvino does not run --precision fp16"),
        ("--format torchscript --runtime openvino", "--runtime openvino runs ONNX graphs"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags: str, message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(export, ["--checkpoint", "demo", "--out", str(tmp_path / "x"), *flags.split()])
    assert done.exit_code != 0
    assert message in str(done.exception) + done.output


@needs_integers
@pytest.mark.slow
def test_a_calibrated_export_by_the_command_line(tmp_path: Path) -> None:
    for seed in range(4):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        draw_scene(seed).image.save(tmp_path / "pictures" / f"{seed}.png")
    flags = ["--checkpoint", "demo", "--precision", "int8", "--runtime", "openvino", "--threads", 1, "--image_count", 4]
    for name in ("one", "two"):
        done = run_export(*flags, "--calibration", tmp_path / "pictures", "--out", tmp_path / name)
        assert "Calibrated on 4 images: 16 tensors" in done.output
    one, two = (open_artifact(tmp_path / name) for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.manifest.quantization is not None
    assert one.manifest.quantization.calibration_images == 4
    assert "agrees on 2 images" in run_verify(one.folder, "--threads", 1).output
