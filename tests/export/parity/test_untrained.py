"""A model that finds nothing: the scores and mask logits of all queries decide whether its export is kept.

The original leaves memory before the artifact is loaded.
"""

from __future__ import annotations

import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export import exporter
from export.checkpoint import Original, load_original
from export.exporter import ExportRequest, export_artifact
from export.parity.pictures import drawn_pictures
from export.parity.recording import record, recording
from export.parity.verify import compare
from export.sam3_runtime import quiet
from job.errors import SelfCheckError, WorkerError
from job.model.artifact import MANIFEST_NAME, Artifact, decode_manifest, encode_manifest, open_artifact
from job.model.loader import open_session
from job.model.reference import reference_of
from job.model.self_check import self_check
from job.model.session import Session
from job.postprocess.masks import full_mask
from tests.export.conftest import run_verify
from tests.export.parity.test_parity import disturb, reseal


@pytest.fixture(scope="module")
def untrained() -> Original:
    """The demo model's architecture with random weights."""
    with quiet():
        original = load_original("demo")
    torch.manual_seed(0)
    for parameter in original.model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=float(parameter.std()) or 0.02)
    return replace(original, model_id="SAM3-untrained")


@pytest.fixture(scope="module")
def exported_untrained(untrained: Original, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    request = ExportRequest(
        out=tmp_path_factory.mktemp("untrained") / "model",
        format="onnx",
        precision="fp32",
        images=None,
        image_count=2,
        device="cpu",
        threads=1,
        runtime="onnx",
        calibration=None,
    )
    export_artifact(lambda: untrained, request)
    return open_artifact(request.out)


def test_the_original_leaves_memory_before_the_artifact_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def load() -> Original:
        original = load_original("demo")
        models.append(weakref.ref(original.model))
        return original

    def open_and_look(*arguments: Any, **options: Any) -> Session:
        alive.extend(model() is not None for model in models)
        return open_session(*arguments, **options)

    monkeypatch.setattr(exporter, "open_session", open_and_look)
    request = ExportRequest(
        out=tmp_path / "model",
        format="onnx",
        precision="fp32",
        images=None,
        image_count=1,
        device="cpu",
        threads=1,
        runtime="onnx",
        calibration=None,
    )
    export_artifact(load, request)
    assert alive == [False]


@pytest.fixture
def disturbed(exported_untrained: Artifact, tmp_path: Path) -> Artifact:
    folder = Path(shutil.copytree(exported_untrained.folder, tmp_path / "disturbed"))
    disturb(folder / "mask_head.onnx", "convolutions.1.weight", 0.01)
    reseal(folder)
    return open_artifact(folder)


def test_the_manifest_says_that_queries_were_compared(exported_untrained: Artifact) -> None:
    for figures in exported_untrained.manifest.parity:
        assert figures.passed
        assert not any(figures.instances.values())
        assert figures.queries == 2 * 3 * 30
        assert 0 < figures.query_error <= figures.tolerance.query_error
    manifest = exported_untrained.manifest
    assert decode_manifest(encode_manifest(manifest), "x") == manifest
    assert (exported_untrained.folder / MANIFEST_NAME).read_bytes() == encode_manifest(manifest)


def test_an_export_without_instances_is_verified_without_its_checkpoint(exported_untrained: Artifact) -> None:
    result = run_verify(exported_untrained.folder, "--device", "cpu", "--threads", 1)
    assert "same_input: agrees on 2 images (both sides found nothing in these pictures); all 180" in result.output


def test_a_worker_self_checks_an_export_without_instances(exported_untrained: Artifact, tmp_path: Path) -> None:
    session = open_session(exported_untrained, device="cpu", threads=1)
    check = self_check(exported_untrained, session, full_mask, cache=tmp_path)
    assert check is not None
    assert (check.figures.images, check.figures.queries) == (1, 90)


def test_one_weight_changed_by_one_percent_is_detected(
    untrained: Original, disturbed: Artifact, tmp_path: Path
) -> None:
    session = open_session(disturbed, device="cpu", threads=1)
    with recording() as answers:
        record(untrained, "cpu", disturbed.manifest.prompts, drawn_pictures(1), answers)
        compared = compare(disturbed, session, answers)
    assert [figures.passed for figures in compared] == [False, False]
    with pytest.raises(WorkerError, match="does not give the original's answers"):
        run_verify(disturbed.folder, "--device", "cpu")
    with pytest.raises(SelfCheckError, match="both sides found nothing"):
        self_check(disturbed, session, full_mask, cache=tmp_path)


def test_the_reference_stores_logits_only_without_instances(exported_untrained: Artifact) -> None:
    reference = reference_of(exported_untrained)
    assert [queries.mask_logits.shape for queries in reference.queries] == [(3, 30, 12, 12)] * 2
    assert not any(len(answer.selected) for answer in reference.answers)
