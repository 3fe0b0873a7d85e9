"""`make bench` and `make bench-gpu` as far as a machine without a GPU can run them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from export.bench import cost, measure, original
from export.bench.__main__ import main
from export.bench.measure import MeasureRequest, Parity
from job.errors import ConfigurationError, DeviceError, UsageError, WorkerError
from job.model.artifact import Artifact
from job.model.loader import choose_runtime
from job.model.session import RuntimeFlag
from job.tools.bench import model_stages
from job.tools.bench.figures import BatchFigures, BenchReport
from tests.fakes import DEMO_ARTIFACT, demo_artifact

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[3]


def copy_demo(original: Any, folder: Path, graph_format: str, precision: str) -> Artifact:
    """In the place of an export, which takes a minute: the embedded artifact, which comes from the same checkpoint."""
    found = demo_artifact()
    for name in found.manifest.files:
        (folder / name).write_bytes((DEMO_ARTIFACT / name).read_bytes())
    return msgspec.structs.replace(found, folder=folder)


@pytest.mark.parametrize("runtime", ["auto", "onnx", "openvino"])
def test_the_demo_model_is_measured_beside_the_original(
    runtime: RuntimeFlag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = choose_runtime(runtime, "cpu", demo_artifact().manifest).runtime
    name = "demo-fp32-cpu" if runtime == "auto" else f"demo-fp32-cpu-{runtime}"
    monkeypatch.setattr(measure, "write_files", copy_demo)
    monkeypatch.setattr(model_stages, "BUDGET_S", 0.2)
    request = MeasureRequest(
        out=tmp_path,
        device="cpu",
        size="demo",
        precision="fp32",
        runtime=runtime,
        threads=1,
        images=2,
        picture_wh=(320, 240),
    )
    report = measure.measure(request)
    assert report.setting.runtime.startswith({"onnx": "onnxruntime ", "openvino": "openvino "}[expected])
    assert report.original is not None
    assert min(report.original.encoder_ms, report.original.grounding_ms) > 0
    assert report.roofline is None
    assert report.resident_bytes < 1 << 30, "torch is not in the memory that is measured"
    assert msgspec.json.decode((tmp_path / f"{name}.json").read_bytes(), type=BenchReport) == report
    parity = msgspec.json.decode((tmp_path / f"{name}.parity.json").read_bytes(), type=Parity)
    assert all(each.passed for each in parity.figures)
    assert "times as fast as eager sam3" in (tmp_path / f"{name}.md").read_text()


def test_figures_are_kept_when_the_original_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("mat1 and mat2 must have the same dtype")

    monkeypatch.setattr(measure, "write_files", copy_demo)
    monkeypatch.setattr(measure, "_run_in_own_process", measure.run_bench)
    monkeypatch.setattr(model_stages, "BUDGET_S", 0.1)
    monkeypatch.setattr(measure, "_compare", fail)
    monkeypatch.setattr(measure, "measure_original", fail)
    request = MeasureRequest(
        out=tmp_path, device="cpu", size="demo", precision="fp32", threads=1, images=2, picture_wh=(320, 240)
    )
    with pytest.raises(WorkerError, match=r"comparison with the original: mat1.*measurement of the original: mat1"):
        measure.measure(request)
    assert msgspec.json.decode((tmp_path / "demo-fp32-cpu.json").read_bytes(), type=BenchReport).original is None


def test_a_machine_without_a_gpu_is_refused_before_an_export(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export.bench", "--device", "cuda", "--out", str(tmp_path / "out")]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert completed.returncode in {ConfigurationError.exit_code, DeviceError.exit_code}
    assert completed.stderr.startswith("Error: --device cuda: ")
    assert len(completed.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "cpu", "--precision", "int8"], "only fp32 is measured with it here"),
        (["--device", "cuda", "--precision", "fp32"], "OpenVINO is used on CPUs only"),
    ],
)
def test_what_openvino_does_not_run_is_refused_before_an_export(flags: list[str], message: str, tmp_path: Path) -> None:
    arguments = [*flags, "--runtime", "openvino", "--size", "demo", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in {UsageError.exit_code, ConfigurationError.exit_code}
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_a_driver_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "check_runtime", lambda *arguments: None)
    monkeypatch.setattr(measure, "check_gpu", lambda *arguments: None)
    monkeypatch.setattr(measure, "gpu_answers", lambda: False)
    with pytest.raises(DeviceError, match=r"no NVIDIA GPU answers.*make bench"):
        measure.require_device("cuda", "fp16", "auto")


def test_the_exporter_provides_the_original_to_the_command() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    ((name, value),) = declared["sam3_annotate.bench_original"].items()
    assert EntryPoint(name, value, "").load() is original.measure_checkpoint


COSTS = {
    "sizes": {"batch": 4},
    "graphs": {name: {"seconds": {"H100": 0.040, "H200": 0.030}} for name in ("image_encoder", "grounding")},
}
MEASURED = BatchFigures(
    batch_size=4,
    in_flight=1,
    load_s=5,
    encoder_ms=30,
    grounding_ms=8,
    prompt_ms=3,
    mask_output_ms=2,
    images_per_s=20,
    images=300,
)


@pytest.mark.parametrize(
    ("gpu", "card", "share"),
    [("NVIDIA H100 80GB HBM3", "H100", 0.5), ("NVIDIA H200", "H200", 0.375), ("NVIDIA RTX A6000", None, None)],
)
def test_a_measurement_is_a_share_of_the_prediction_for_its_card(gpu: str, card: str | None, share: float) -> None:
    found = cost.roofline(COSTS, gpu, MEASURED)
    assert (found and (found.card, found.share)) == (card and (card, share))


def test_a_cost_model_that_does_not_run_is_a_reason(tmp_path: Path) -> None:
    found = cost.run_cost_model(tmp_path / "no model", 4, 3)
    assert isinstance(found, str)
    assert "cost model" in found
