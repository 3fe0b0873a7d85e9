"""The memory that a model needs, against the memory limit of the process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import job.worker.memory_need
from job.errors import ConfigurationError
from job.model.artifact import Artifact, FileEntry
from job.run.options import WorkerOptions
from job.telemetry.progress_bar import Tally
from job.worker.memory_need import PROCESS_BYTES, check_memory, images_in_flight, memory_need
from job.worker.runner import annotate
from tests.fakes import FakeSession, demo_artifact, request_of
from tests.job.worker.conftest import UseSession

GIB = 1 << 30
CPU = WorkerOptions(device="cpu")


def full_size(precision_bytes: int = 4) -> Artifact:
    """An artifact with the manifest of the full-size model; its files do not exist."""
    demo = demo_artifact()
    encoder = demo.manifest.image_encoder
    sides = (288, 144, 72)
    outputs = tuple(
        msgspec.structs.replace(spec, shape=("batch", 256, side, side))
        for spec, side in zip(encoder.outputs, sides, strict=True)
    )
    weights = {"image_encoder.onnx": 458_000_000, "grounding.onnx": 28_000_000, "text_encoder.onnx": 354_000_000}
    files = {f"{name}.data": FileEntry("", count * precision_bytes) for name, count in weights.items()}
    manifest = msgspec.structs.replace(
        demo.manifest, image_side=1008, files=files, image_encoder=msgspec.structs.replace(encoder, outputs=outputs)
    )
    return msgspec.structs.replace(demo, manifest=manifest)


def limit_memory(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    monkeypatch.setattr(job.worker.memory_need, "memory_limit", lambda: int(limit))
    monkeypatch.setattr(job.worker.memory_need, "available_memory", lambda: int(limit) - PROCESS_BYTES)


def test_estimate_is_above_the_measured_memory() -> None:
    full, demo = memory_need(full_size().manifest, "cpu"), memory_need(demo_artifact().manifest, "cpu")
    # Parts measured at full size, each graph alone: 0.6, 0.75 and 0.5 GB beside the weights.
    assert 1.86e9 < full.activations < 1.5 * 1.86e9
    assert full.total(1) < 6.1e9
    assert demo.total(1) == pytest.approx(156 << 20, rel=0.1)


@pytest.mark.parametrize(
    ("encoder_bytes", "measured"),
    [pytest.param(1_839_900_000, 3.83e9, id="fp32"), pytest.param(935_600_000, 2.81e9, id="bf16")],
)
def test_estimate_for_openvino_is_above_the_measured_memory(encoder_bytes: int, measured: float) -> None:
    """Peak at full size with the masks of all queries: `docs/performance.md`."""
    sizes = {"image_encoder.onnx.data": encoder_bytes, "grounding.onnx": 114_200_000, "mask_head.onnx": 4_700_000}
    files = {name: FileEntry("", size) for name, size in sizes.items()}
    manifest = msgspec.structs.replace(full_size().manifest, files=files)
    need = memory_need(manifest, "cpu", "openvino")
    assert measured < need.total(1) < 1.25 * measured
    assert need.total(1) < memory_need(manifest, "cpu").total(1)
    assert need.total(2) - need.total(1) < memory_need(manifest, "cpu").activations / 2, "calls share the buffers"


def test_on_a_gpu_the_host_needs_memory_for_the_weights_only() -> None:
    need = memory_need(full_size().manifest, "cuda")
    assert (need.graphs, need.activations) == (4 * 486_000_000, 0)


def test_worker_is_refused_when_its_memory_limit_is_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 5 * GIB)
    check_memory(demo_artifact(), CPU)
    with pytest.raises(ConfigurationError) as caught:
        check_memory(full_size(), CPU)
    assert str(caught.value) == (
        "the model needs about 5.6 GiB of memory with one image in flight (3.2 GiB for its graphs, 2.4 GiB for "
        "activations), and the memory limit leaves this process 5.0 GiB: raise the limit to at least 5.6 GiB, "
        "or use a machine with more memory"
    )
    limit_memory(monkeypatch, 6 * GIB)
    check_memory(full_size(), CPU)


def test_workers_share_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 10 * GIB)
    check_memory(full_size(), CPU)
    with pytest.raises(ConfigurationError, match=r"each of 2 workers 5\.0 GiB: .* 11\.3 GiB, give fewer --workers"):
        check_memory(full_size(), replace(CPU, workers=2))


@pytest.mark.parametrize(
    ("limit", "options", "in_flight"),
    [
        pytest.param(6 * GIB, CPU, 1, id="one fits"),
        pytest.param(8 * GIB, CPU, 1, id="one fits into the chart's limit"),
        pytest.param(8 * GIB, replace(CPU, runtime="openvino"), 2, id="two fit into it by OpenVINO"),
        pytest.param(9 * GIB, CPU, 2, id="two fit"),
        pytest.param(9 * GIB, replace(CPU, batch_size=4), 2, id="two of four fit"),
        pytest.param(64 * GIB, replace(CPU, batch_size=4), 4, id="four fit"),
        pytest.param(64 * GIB, replace(CPU, memory_limit=6 * GIB), 1, id="share of a worker process"),
        pytest.param(2 * GIB, CPU, 1, id="not even one fits now"),
        pytest.param(16 * GIB, replace(CPU, device="cuda", batch_size=8), 1, id="GPU"),
    ],
)
def test_images_in_flight_fit_into_memory(
    limit: float,
    options: WorkerOptions,
    in_flight: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit_memory(monkeypatch, limit)
    assert images_in_flight(full_size(), options) == in_flight
    is_reduced = options.device == "cpu" and in_flight < (options.batch_size or 2)
    assert ("images in flight need about" in caplog.text) == is_reduced


def test_run_is_not_begun_when_the_memory_limit_is_too_low(
    source: Path, target: Path, use_session: UseSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = use_session(FakeSession())
    limit_memory(monkeypatch, 100 << 20)
    with pytest.raises(ConfigurationError, match=r"the memory limit leaves this process 100 MiB"):
        annotate(request_of(source, target), Tally())
    assert session.images == 0
    assert not target.exists()
