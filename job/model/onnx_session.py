"""Session that runs a model with ONNX Runtime on a CPU or an NVIDIA GPU.

Results are reproducible bit by bit and do not depend on the other images of a batch: execution is sequential and
deterministic, a CPU gets one image at a time, a GPU batches of one fixed size. Features stay on the device.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from job.errors import ArtifactError, ConfigurationError, DeviceError
from job.model.gpu import device_failure
from job.model.integer_kernels import require_exact_integers
from job.model.session import Grounding, SessionInfo, TextFeatures, ground_rows, padded_batch, row_axes, row_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from job.model.artifact import Artifact, GraphSpec
    from job.model.session import ImageFeatures

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # the exhaustive search chooses by measured time, so results differ by run
    "use_tf32": "0",
    "enable_skip_layer_norm_strict_mode": "1",  # sums in float32
    "sdpa_kernel": "19",  # Flash (1), memory-efficient (2) or plain (16) attention; TensorRT's kernels sum in float16
}
ORT_ERRORS = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
)


@dataclass(frozen=True)
class OnnxFeatures:
    """Feature maps on the device, and the number of their rows that are images; the rest is padding."""

    maps: tuple[Any, ...]
    images: int


class OnnxSession:
    """The graphs of an ONNX artifact, loaded. Implements `job.model.session.Session`."""

    def __init__(self, artifact: Artifact, *, device: str, batch_size: int, threads: int) -> None:
        self._artifact = artifact
        self._device = device
        self._provider = CUDA_PROVIDER if device == "cuda" else CPU_PROVIDER
        self._options = session_options(threads if device == "cpu" else 1)
        self.check_installation(device)
        if artifact.manifest.precision == "int8":
            require_exact_integers(self._options)
        if device == "cuda":
            ort.preload_dlls()
        self._info = SessionInfo(
            runtime=f"onnxruntime {ort.__version__}",
            provider=self._provider,
            image_side=artifact.manifest.image_side,
            batch_size=batch_size if device == "cuda" else 1,
            threads=threads if device == "cpu" else 0,
        )
        self._encoder = self._load(artifact.manifest.image_encoder)
        self._grounding = self._load(artifact.manifest.grounding)
        self._mask_head = self._load(artifact.manifest.mask_head)
        self._row_axes = row_axes(artifact.manifest)

    @staticmethod
    def check_installation(device: str) -> None:
        """Check, without access to a device, that this installation supports the device.

        Raises:
            ConfigurationError: The installation was built without CUDA.
        """
        if device == "cuda" and not cuda_provider_installed():
            raise ConfigurationError(
                f"--device cuda: this installation of onnxruntime has {', '.join(ort.get_available_providers())} only. "
                "Install the GPU build (pip uninstall onnxruntime, then pip install 'sam3-annotate[gpu]'), "
                "or give --device cpu"
            )

    @property
    def info(self) -> SessionInfo:
        """Properties that do not change while the session is open."""
        return self._info

    def encode_images(self, pixels: NDArray[np.uint8]) -> OnnxFeatures:
        """Encode images; see `job.model.session.Session`."""
        padded = padded_batch(pixels, self._info)
        spec = self._artifact.manifest.image_encoder
        binding = self._encoder.io_binding()
        binding.bind_cpu_input(spec.inputs[0].name, padded)
        for output in spec.outputs:
            binding.bind_output(output.name, self._device)
        self._run(self._encoder, binding)
        return OnnxFeatures(maps=tuple(binding.get_outputs()), images=len(pixels))

    def ground(self, features: ImageFeatures, text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        """Find every prompt in every encoded image; see `job.model.session.Session`."""
        if not isinstance(features, OnnxFeatures):
            raise TypeError(f"features of another session: {type(features).__name__}")
        encoder, grounding = self._artifact.manifest.image_encoder, self._artifact.manifest.grounding
        tensors = dict(zip((x.name for x in encoder.outputs), features.maps, strict=True))
        *maps, text_features, text_mask = (x.name for x in grounding.inputs)
        binding = self._grounding.io_binding()
        for name in maps:
            binding.bind_ortvalue_input(name, tensors[name])
        binding.bind_cpu_input(text_features, np.ascontiguousarray(text.features))
        binding.bind_cpu_input(text_mask, np.ascontiguousarray(text.mask))
        scores_name, *row_names = (x.name for x in grounding.outputs)
        binding.bind_output(scores_name, "cpu")
        for name in row_names:
            binding.bind_output(name, self._device)
        self._run(self._grounding, binding)
        scores, *outputs = binding.get_outputs()
        tensors |= zip(row_names, outputs, strict=True)
        row_masks = partial(self._row_masks, tensors)
        return ground_rows(scores.numpy()[: features.images], score_threshold, self._artifact.manifest, row_masks)

    def _row_masks(
        self, tensors: dict[str, Any], image: int, prompt: int, queries: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Mask logits (K, h, w) of queries (K,), from a row of tensors that stay on the device."""
        spec = self._artifact.manifest.mask_head
        *rows, selected = spec.inputs
        binding = self._mask_head.io_binding()
        for tensor in rows:
            value, axes = tensors[tensor.name], self._row_axes[tensor.name]
            row = row_number(axes, value.shape(), {"batch": image, "prompts": prompt})
            size = math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
            address = value.data_ptr() + row * size
            binding.bind_input(tensor.name, self._device, 0, np.dtype(tensor.dtype).type, tensor.shape, address)
        binding.bind_cpu_input(selected.name, np.ascontiguousarray(queries))
        binding.bind_output(spec.outputs[0].name, "cpu")
        self._run(self._mask_head, binding)
        masks: NDArray[np.float32] = binding.get_outputs()[0].numpy()
        return masks

    def encode_text(self, token_ids: NDArray[np.int64]) -> TextFeatures:
        """Encode token ids; the text encoder is loaded for this call only."""
        spec = self._artifact.text_encoder()
        encoder = self._load(spec)
        with _device_errors(self._device):
            features, mask = encoder.run(None, {spec.inputs[0].name: token_ids})
        return TextFeatures(features=features, mask=mask)

    def _load(self, spec: GraphSpec) -> Any:
        providers = [(CUDA_PROVIDER, CUDA_OPTIONS)] if self._device == "cuda" else [CPU_PROVIDER]
        path = str(self._artifact.path(spec.file))
        with _device_errors(self._device):
            # Without the fallback, the error of a provider is raised and not printed.
            session = ort.InferenceSession(path, self._options, providers=providers, enable_fallback=0)
        if session.get_providers()[0] != self._provider:
            raise DeviceError(
                f"--device {self._device}: ONNX Runtime could not use its {self._provider} and offers "
                f"{', '.join(session.get_providers())}. See `nvidia-smi` and the driver's version, or give --device cpu"
            )
        _check_names(session, spec)
        return session

    def _run(self, session: Any, binding: Any) -> None:
        with _device_errors(self._device):
            session.run_with_iobinding(binding)


def _check_names(session: Any, spec: GraphSpec) -> None:
    """Compare the inputs and outputs of a graph with the manifest."""
    for kind, found, declared in (
        ("inputs", session.get_inputs(), spec.inputs),
        ("outputs", session.get_outputs(), spec.outputs),
    ):
        if {value.name for value in found} != {value.name for value in declared}:
            raise ArtifactError(
                f"{spec.file} has the {kind} {', '.join(value.name for value in found)}, the manifest says "
                f"{', '.join(value.name for value in declared)}: export the model again"
            )


def cuda_provider_installed() -> bool:
    """Return whether this installation of ONNX Runtime was built for NVIDIA GPUs."""
    return CUDA_PROVIDER in ort.get_available_providers()


def session_options(threads: int) -> Any:
    """Return the options of every session: sequential, deterministic, with so many threads of a CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    # Waiting threads sleep instead of spinning: decoding and encoding of other images need the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@contextmanager
def _device_errors(device: str) -> Iterator[None]:
    try:
        yield
    except ORT_ERRORS as exc:
        raise device_failure(device, "ONNX Runtime", exc) from exc
