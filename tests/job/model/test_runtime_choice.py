"""What `--runtime auto` chooses, and what each runtime refuses before a device is used."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from job.errors import ConfigurationError, UnusableDeviceError
from job.model import loader, processor
from job.model.artifact import (
    MANIFEST_NAME,
    Artifact,
    Manifest,
    Precision,
    Quantization,
    decode_manifest,
    encode_manifest,
    open_artifact,
)
from job.model.loader import check_session, choose_runtime, default_device, runtime_of
from tests.fakes import DEMO_ARTIFACT

CALIBRATED = Quantization(calibration_images=6, rounded=15, kept=("blocks.0.feed_forward.narrow",))


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return open_artifact(DEMO_ARTIFACT)


def manifest_of(precision: Precision, quantization: Quantization | None = None) -> Manifest:
    """That of the embedded model, with another precision and quantization."""
    manifest = open_artifact(DEMO_ARTIFACT).manifest
    return msgspec.structs.replace(manifest, precision=precision, quantization=quantization)


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(loader, "find_spec", lambda name: name if name in names else None)


AVX512, AVX2 = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16"), ("avx2", "avx_vnni")


@pytest.mark.parametrize(
    ("installed", "device", "instructions", "runtime"),
    [
        (("onnxruntime", "openvino"), "cpu", AVX512, "openvino"),
        (("onnxruntime", "openvino"), "cpu", AVX2, "openvino"),
        (("onnxruntime", "openvino"), "cpu", (*AVX512, "amx_int8", "amx_bf16"), "onnx"),
        (("openvino",), "cpu", (*AVX512, "amx_int8", "amx_bf16"), "openvino"),
        (("onnxruntime", "openvino"), "cpu", ("asimddp", "i8mm"), "onnx"),
        (("onnxruntime", "openvino"), "cpu", (), "onnx"),
        (("onnxruntime",), "cpu", AVX512, "onnx"),
        (("openvino",), "cpu", (), "openvino"),
        ((), "cpu", AVX512, "onnx"),
        (("onnxruntime", "openvino"), "cuda", AVX512, "onnx"),
    ],
)
def test_auto_chooses_the_runtime_of_the_table_if_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    installed: tuple[str, ...],
    device: Any,
    instructions: tuple[str, ...],
    runtime: str,
) -> None:
    install(monkeypatch, *installed)
    monkeypatch.setattr(loader, "instruction_names", lambda: instructions)
    choice = choose_runtime("auto", device, manifest_of("fp32"))
    assert choice.runtime == runtime
    assert choice.reason


def test_auto_never_gives_openvino_what_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "onnxruntime", "openvino")
    torchscript = msgspec.structs.replace(manifest_of("fp32"), format="torchscript")
    for manifest in (manifest_of("fp16"), manifest_of("int8"), torchscript):
        assert choose_runtime("auto", "cpu", manifest).runtime == "onnx"


def test_the_reason_names_the_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "instruction_names", lambda: ("avx2", "amx_bf16"))
    assert "avx2 amx_bf16" in choose_runtime("auto", "cpu", manifest_of("fp32")).reason


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_runtime_that_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch, runtime: Any) -> None:
    install(monkeypatch, "openvino")
    assert choose_runtime(runtime, "cpu", manifest_of("fp32")).runtime == runtime


def test_openvino_takes_the_cpu_of_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "gpu_answers", lambda: True)
    assert default_device("openvino").device == "cpu"


def test_each_format_has_one_default_runtime() -> None:
    assert (runtime_of("onnx"), runtime_of("torchscript")) == ("onnx", "torch")
    assert (runtime_of("onnx", "bf16"), runtime_of("onnx", "int8")) == ("openvino", "onnx")
    assert runtime_of("onnx", "int8", CALIBRATED) == "openvino"


@pytest.mark.parametrize("installed", [("onnxruntime", "openvino"), ("onnxruntime",)])
def test_auto_runs_bf16_with_openvino_alone(monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...]) -> None:
    install(monkeypatch, *installed)
    choice = choose_runtime("auto", "cpu", manifest_of("bf16"))
    assert choice.runtime == "openvino"
    assert choice.reason.startswith("the model is bf16")
    assert choose_runtime("auto", "cpu", manifest_of("int8")).runtime == "onnx"
    choice = choose_runtime("auto", "cpu", manifest_of("int8", CALIBRATED))
    assert choice.runtime == "openvino"
    assert choice.reason.startswith("the model is int8")


@pytest.mark.parametrize(
    ("device", "runtime", "message"),
    [
        ("cpu", "onnx", r"--runtime onnx: .* is int8, made for OpenVINO: give --runtime openvino"),
        ("cuda", "onnx", r"--device cuda: .* is int8, which is made for CPUs: give --device cpu"),
    ],
)
def test_calibrated_int8_is_for_openvino_on_a_cpu(artifact: Artifact, device: Any, runtime: Any, message: str) -> None:
    manifest = manifest_of("int8", CALIBRATED)
    with pytest.raises(ConfigurationError, match=message):
        check_session(Artifact(artifact.folder, manifest, artifact.digest), device, runtime)


@pytest.mark.parametrize(
    ("instructions", "is_refused"),
    [
        (("avx2",), True),
        (("avx2", "avx512f", "avx512_bf16"), True),
        (("avx2", "avx_vnni"), False),
        (("avx2", "avx512f", "avx512_vnni"), False),
        (("amx_int8",), False),
    ],
)
def test_calibrated_int8_needs_exact_sums(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, instructions: tuple[str, ...], is_refused: bool
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(processor, "instruction_names", lambda: instructions)
    manifest = manifest_of("int8", CALIBRATED)
    refused = pytest.raises(UnusableDeviceError, match="is int8 for OpenVINO, and this processor has neither VNNI nor")
    with refused if is_refused else nullcontext():
        check_session(Artifact(artifact.folder, manifest, artifact.digest), "cpu", "openvino")


def test_a_manifest_without_quantization_keeps_its_bytes(artifact: Artifact) -> None:
    assert encode_manifest(artifact.manifest) == (DEMO_ARTIFACT / MANIFEST_NAME).read_bytes()
    manifest = msgspec.structs.replace(artifact.manifest, quantization=CALIBRATED)
    assert decode_manifest(encode_manifest(manifest), DEMO_ARTIFACT) == manifest


@pytest.mark.parametrize(
    ("device", "runtime", "message"),
    [
        ("cpu", "onnx", r"--runtime onnx: .* is bf16, made for OpenVINO: give --runtime openvino"),
        ("cuda", "onnx", r"--device cuda: .* is bf16, which is made for CPUs: give --device cpu"),
    ],
)
def test_bf16_is_for_openvino_on_a_cpu(artifact: Artifact, device: Any, runtime: Any, message: str) -> None:
    manifest = msgspec.structs.replace(artifact.manifest, precision="bf16")
    with pytest.raises(ConfigurationError, match=message):
        check_session(Artifact(artifact.folder, manifest, artifact.digest), device, runtime)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_openvino_refuses_graphs_with_operators_of_onnx_runtime(artifact: Artifact, precision: str) -> None:
    manifest = msgspec.structs.replace(artifact.manifest, precision=precision)
    with pytest.raises(ConfigurationError, match=f"openvino runs fp32 and bf16 models.*is {precision}.*--runtime onnx"):
        check_session(Artifact(artifact.folder, manifest, artifact.digest), "cpu", "openvino")


def test_openvino_refuses_torchscript(artifact: Artifact) -> None:
    manifest = msgspec.structs.replace(artifact.manifest, format="torchscript")
    with pytest.raises(ConfigurationError, match=r"openvino runs onnx models.*give --runtime torch"):
        check_session(Artifact(artifact.folder, manifest, artifact.digest), "cpu", "openvino")


def test_a_missing_openvino_is_one_sentence_with_the_package(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    flags = ["--input_top_dir", str(tmp_path / "in"), "--out_top_dir", str(tmp_path / "out"), "--runtime", "openvino"]
    code = (
        "import sys; sys.modules['openvino'] = None; from job.cli.main import run; "
        f"sys.exit(run(['doctor', *{flags!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "pip install 'sam3-annotate[openvino]', or give --runtime onnx" in done.stderr


def test_the_telemetry_of_openvino_cannot_be_imported() -> None:
    code = "import job\ntry:\n    import openvino_telemetry\nexcept ImportError:\n    print('off')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "off\n"
