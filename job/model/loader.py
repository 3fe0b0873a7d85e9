"""Opens the session that runs an artifact, and chooses its device."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from job.errors import ArtifactError, ConfigurationError, DeviceError, UnusableDeviceError
from job.model.gpu import unusable_devices, why_unusable
from job.model.processor import computes_bfloat16, instruction_names, multiplies_integers
from job.system.cuda_driver import cuda_driver
from job.system.resources import count_gpus, usable_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from job.model.artifact import Artifact, GraphFormat, Manifest, Precision, Quantization
    from job.model.onnx_session import OnnxSession
    from job.model.openvino_runtime.session import OpenVinoSession
    from job.model.session import Device, Runtime, RuntimeFlag, Session
    from job.model.torch_session import TorchSession

_FORMAT_OF_RUNTIME: dict[Runtime, GraphFormat] = {"onnx": "onnx", "openvino": "onnx", "torch": "torchscript"}
_RUNTIME_OF_FORMAT: dict[GraphFormat, Runtime] = {"onnx": "onnx", "torchscript": "torch"}


_FP32_ON_CPU: dict[str, Runtime] = {"amx_bf16": "onnx", "avx512f": "openvino", "avx2": "openvino"}
"""The runtime for fp32 graphs, by the best instruction set of the processor; others are not measured: ONNX Runtime.

At full size OpenVINO is faster with each of these sets (docs/performance.md). With AMX it is not chosen all the same:
in one run there, pods of one CPU that shared two cores took seconds for a picture of the demo set, and why is unknown.
"""


DEFAULT_GPU_BATCH = 4


@dataclass(frozen=True)
class DeviceChoice:
    """A device and, for the log, the reason for it."""

    device: Device
    reason: str


@dataclass(frozen=True)
class RuntimeChoice:
    """A runtime and, for the log, the reason for it."""

    runtime: Runtime
    reason: str


def open_session(
    artifact: Artifact,
    *,
    device: Device,
    batch_size: int | None = None,
    threads: int | None = None,
    runtime: Runtime = "onnx",
    cache: Path | None = None,
) -> Session:
    """Load the graphs of an artifact.

    Args:
        artifact: The model; the torch runtime requires one whose digest the caller gave.
        device: `cuda` never falls back to `cpu`.
        batch_size: Images in one call on a GPU, None for `DEFAULT_GPU_BATCH`; on a CPU it is always 1.
        threads: Threads inside one operator on a CPU, None for as many as this process may use.
        runtime: The library that executes the graphs.
        cache: The model cache, None for the default; OpenVINO keeps compiled graphs in it.

    Raises:
        ConfigurationError: The runtime does not run this format or precision, the files may not be executed, or the
            runtime is not installed or does not support the device.
        UnusableDeviceError: The driver is too old, the runtime has no kernels for the GPU, or the processor has no
            instructions for bf16.
        DeviceError: The device does not respond.
    """
    check_session(artifact, device, runtime)
    if runtime == "openvino":
        return _openvino_session()(artifact, threads=threads or usable_cpus(), cache=cache)
    kind = _torch_session() if runtime == "torch" else _onnx_session()
    with explained(device, runtime):
        return kind(
            artifact, device=device, batch_size=batch_size or DEFAULT_GPU_BATCH, threads=threads or usable_cpus()
        )


@contextmanager
def explained(device: Device, runtime: Runtime) -> Iterator[None]:
    """Turn a device error inside the block that can never pass on this node into one that says so.

    Raises:
        UnusableDeviceError: The driver is too old, or the runtime has no kernels for the GPU.
    """
    if device != "cuda":
        yield
        return
    with unusable_devices(_gpu_module(runtime).gpu_needs()):
        yield


def check_gpu(device: Device, runtime: Runtime) -> None:
    """Check in seconds, without a model, that the driver and the GPU of this node can ever run a runtime.

    A device that does not respond passes: it may come back.

    Raises:
        UnusableDeviceError: The driver is too old, or the runtime has no kernels for the GPU.
    """
    if device != "cuda":
        return
    module = _gpu_module(runtime)
    needs, driver = module.gpu_needs(), cuda_driver()
    if why_unusable(needs, driver, "") is None:
        return
    words = ""
    try:
        module.try_gpu()
    except DeviceError as exc:
        words = str(exc)
    raise UnusableDeviceError(why_unusable(needs, driver, words))


def check_session(artifact: Artifact, device: Device, runtime: Runtime) -> None:
    """Check everything that needs no access to a device.

    Raises:
        ConfigurationError: See `open_session`.
        UnusableDeviceError: The artifact is bf16, and this processor has no instructions for it.
    """
    _check_format(artifact, runtime)
    _check_digests(artifact)
    _check_precision(artifact, device, runtime)
    if runtime == "torch":
        _check_pinned(artifact)
    check_runtime(device, runtime)


def check_runtime(device: Device, runtime: Runtime) -> None:
    """Check that a library is installed and supports a device.

    Raises:
        ConfigurationError: It is not installed or does not support the device.
    """
    if runtime == "torch":
        _torch_session()
    elif runtime == "openvino":
        _openvino_session().check_installation(device)
    else:
        _onnx_session().check_installation(device)


def default_device(runtime: RuntimeFlag = "auto") -> DeviceChoice:
    """Choose cuda when a GPU responds and the installation can use it, else cpu."""
    if runtime == "openvino":
        return DeviceChoice("cpu", "OpenVINO is used on CPUs only")
    if not gpu_answers():
        return DeviceChoice("cpu", "no NVIDIA GPU answers")
    if runtime != "torch" and not _onnx_has_cuda():
        return DeviceChoice(
            "cpu",
            "an NVIDIA GPU answers, but this installation of onnxruntime cannot use it: "
            "pip uninstall onnxruntime, then pip install 'sam3-annotate[gpu]'",
        )
    return DeviceChoice("cuda", "an NVIDIA GPU answers")


def choose_runtime(wanted: RuntimeFlag, device: Device, manifest: Manifest) -> RuntimeChoice:
    """Turn `auto` into a runtime, by a fixed table of devices, artifacts and installed libraries.

    GPUs run ONNX Runtime. On a CPU OpenVINO alone computes in bfloat16 and with constant scales, and fp32 graphs run
    with the library that the table names for its instruction sets, if it is installed. The last bits of outputs depend
    on the runtime, whose name is in every journal row. Torch executes programs, so it is never chosen without the flag.

    Args:
        wanted: Value of `--runtime`.
        device: The device.
        manifest: Of the artifact.

    Raises:
        ConfigurationError: The runtime that is asked for does not support the device.
    """
    if wanted != "auto":
        if wanted == "openvino":
            check_runtime(device, wanted)
        return RuntimeChoice(wanted, "--runtime asks for it")
    if device == "cuda":
        return RuntimeChoice("onnx", "GPUs run ONNX Runtime")
    if needs_openvino(manifest.precision, manifest.quantization):
        return RuntimeChoice("openvino", f"the model is {manifest.precision}, made for it ({_instruction_sets()})")
    if manifest.precision == "fp32" and manifest.format == "onnx":
        return _default_on_cpu()
    return RuntimeChoice("onnx", f"it runs models in {manifest.precision} ({_instruction_sets()})")


def _default_on_cpu() -> RuntimeChoice:
    """The runtime for fp32 graphs, of those that are installed."""
    modules: dict[Runtime, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
    names = instruction_names()
    chosen: Runtime = next((runtime for name, runtime in _FP32_ON_CPU.items() if name in names), "onnx")
    other: Runtime = "onnx" if chosen == "openvino" else "openvino"
    if find_spec(modules[chosen]) is not None:
        return RuntimeChoice(chosen, f"it is the default on this processor ({_instruction_sets()})")
    if find_spec(modules[other]) is not None:
        return RuntimeChoice(other, f"{modules[chosen]} is not installed ({_instruction_sets()})")
    return RuntimeChoice("onnx", "neither onnxruntime nor openvino is installed")


def _instruction_sets() -> str:
    return f"instruction sets: {' '.join(instruction_names()) or 'unknown'}"


def gpu_answers() -> bool:
    """Query NVIDIA's driver for a GPU."""
    return count_gpus() > 0


def runtime_of(
    graph_format: GraphFormat, precision: Precision | None = None, quantization: Quantization | None = None
) -> Runtime:
    """Return the library that an artifact of a format, precision and quantization is made for."""
    return "openvino" if needs_openvino(precision, quantization) else _RUNTIME_OF_FORMAT[graph_format]


def needs_openvino(precision: Precision | None, quantization: Quantization | None) -> bool:
    """Whether no other library runs an artifact of a precision and quantization."""
    return precision == "bf16" or quantization is not None


def _check_format(artifact: Artifact, runtime: Runtime) -> None:
    found, runs = artifact.manifest.format, _FORMAT_OF_RUNTIME[runtime]
    if found != runs:
        raise ConfigurationError(
            f"--runtime {runtime} runs {runs} models, {artifact.folder} is {found}: "
            f"give --runtime {_RUNTIME_OF_FORMAT[found]}, or export with --format {runs}"
        )


def _check_digests(artifact: Artifact) -> None:
    """A graph that the manifest does not list is not checked when the artifact is opened."""
    manifest = artifact.manifest
    for graph in (manifest.image_encoder, manifest.grounding, manifest.mask_head):
        if graph.file not in manifest.files:
            raise ArtifactError(
                f"the manifest of {artifact.folder} has no digest of {graph.file}: export the model again"
            )


def _check_precision(artifact: Artifact, device: Device, runtime: Runtime) -> None:
    precision, quantization = artifact.manifest.precision, artifact.manifest.quantization
    is_for_openvino = needs_openvino(precision, quantization)
    if runtime == "openvino" and not is_for_openvino and precision != "fp32":
        # OpenVINO 2026.4 fails on the demo model's int8 graphs and computes other features from its fp16 graphs.
        raise ConfigurationError(
            f"--runtime openvino runs fp32 and bf16 models, and int8 models exported for it. {artifact.folder} is "
            f"{precision} with operators of ONNX Runtime: give --runtime onnx, or export with --precision fp32"
        )
    if device == "cuda" and precision in {"int8", "bf16"}:
        raise ConfigurationError(
            f"--device cuda: {artifact.folder} is {precision}, which is made for CPUs: give --device cpu, or export "
            "with --precision fp16"
        )
    if not is_for_openvino:
        return
    if runtime != "openvino":
        raise ConfigurationError(
            f"--runtime {runtime}: {artifact.folder} is {precision}, made for OpenVINO: give --runtime openvino "
            "(pip install 'sam3-annotate[openvino]'), or export with --precision fp32"
        )
    require_instructions(str(artifact.folder), precision)


def require_instructions(what: str, precision: Precision) -> None:
    """Check that this processor can run artifacts of a precision that are made for OpenVINO.

    Raises:
        UnusableDeviceError: It has no instructions for them.
    """
    if precision == "int8" and not multiplies_integers():
        # Without them oneDNN's sums of two products of uint8 and int8 saturate at 16 bits.
        raise UnusableDeviceError(
            f"{what} is int8 for OpenVINO, and this processor has neither VNNI nor AMX-INT8 ({_instruction_sets()}), "
            "which exact sums need: use another kind of machine, or export with --precision int8 --runtime onnx"
        )
    if precision == "bf16" and not computes_bfloat16():
        raise UnusableDeviceError(
            f"{what} is bf16, and this processor has neither AVX512-BF16 nor AMX-BF16 ({_instruction_sets()}): use "
            "another kind of machine, or export with --precision fp32 or int8"
        )


def _check_pinned(artifact: Artifact) -> None:
    if not artifact.pinned:
        raise ConfigurationError(
            f"--runtime torch: the files of {artifact.folder} are programs and run only when --model_digest names "
            f"the model that you trust. This one's digest is {artifact.digest}"
        )


def _onnx_session() -> type[OnnxSession]:
    try:
        from job.model.onnx_session import OnnxSession
    except ImportError as exc:
        raise ConfigurationError(
            f"onnxruntime cannot be imported ({exc}): pip install 'sam3-annotate[cpu]', or [gpu] for an NVIDIA GPU"
        ) from exc
    return OnnxSession


def _openvino_session() -> type[OpenVinoSession]:
    try:
        from job.model.openvino_runtime.session import OpenVinoSession
    except ImportError as exc:
        raise ConfigurationError(
            f"openvino cannot be imported ({exc}): pip install 'sam3-annotate[openvino]', or give --runtime onnx"
        ) from exc
    return OpenVinoSession


def _gpu_module(runtime: Runtime) -> Any:
    """The module with `gpu_needs` and `try_gpu` of a runtime."""
    if runtime == "torch":
        from job.model import torch_session

        return torch_session
    from job.model import onnx_gpu

    return onnx_gpu


def _torch_session() -> type[TorchSession]:
    try:
        from job.model.torch_session import TorchSession
    except ImportError as exc:
        raise ConfigurationError(f"torch cannot be imported ({exc}): pip install 'sam3-annotate[torch]'") from exc
    return TorchSession


def _onnx_has_cuda() -> bool:
    try:
        from job.model.onnx_session import cuda_provider_installed
    except ImportError:
        return False
    return cuda_provider_installed()
