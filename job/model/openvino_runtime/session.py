"""Session that runs an ONNX artifact with OpenVINO on a CPU: fp32 in float32, bf16 and int8 mostly in bfloat16.

Results are reproducible bit by bit for a number of threads: one image a call, one stream, and the arithmetic is that of
the artifact, whatever the processor prefers. Another number of threads may change the last bits. Of a bf16 artifact the
image encoder and the fusion with the prompt compute in bfloat16, all else in float32. Of an int8 artifact the matrix
products of the image encoder that its graph rounds compute in 8-bit integers with exact sums, the mask head and what is
in bfloat16 of a bf16 artifact in bfloat16, or in float32 on a processor without such instructions.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino.preprocess import PrePostProcessor

from job.errors import ConfigurationError, DeviceError
from job.model.gpu import device_failure
from job.model.openvino_runtime.attention import join_query_parts
from job.model.openvino_runtime.compiled_graphs import CompiledKey, compiled_graphs
from job.model.openvino_runtime.parts import split_after_fusion, split_before_text
from job.model.openvino_runtime.weights import keep_bfloat16, release_weights
from job.model.processor import computes_bfloat16, instruction_names, instruction_set
from job.model.session import Grounding, SessionInfo, TextFeatures, ground_rows, padded_batch, row_axes, row_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from job.model.artifact import Artifact, GraphSpec, Precision
    from job.model.session import ImageFeatures

Tensors = dict[str, "NDArray[Any]"]

DEVICE = "CPU"
_ONE_PROMPT = {"batch": 1, "prompts": 1}
_ANY_PROMPTS = {"batch": 1}
_PRECISION = "INFERENCE_PRECISION_HINT"
_SHARED = {"share_inputs": True, "share_outputs": True}


@dataclass(frozen=True)
class OpenVinoFeatures:
    """Feature maps of one image by name, in host memory."""

    maps: Tensors


class OpenVinoSession:
    """The graphs of an ONNX artifact, compiled. Implements `job.model.session.Session`."""

    def __init__(self, artifact: Artifact, *, threads: int, cache: Path | None = None) -> None:
        self._artifact = artifact
        self._threads = threads
        self._core = ov.Core()
        manifest, runtime = artifact.manifest, runtime_name()
        self._fast = _fast_type(manifest.precision)
        masks = self._fast if manifest.precision == "int8" else ov.Type.f32
        # Loading the compiled image encoder takes as long as compiling it (3.2 and 3.1 s of processor time at full
        # size), and 1.3 GB more memory: both are the time to pack its weights.
        self._encoder = self._compile(self._read(manifest.image_encoder), self._fast, None)
        release_weights(artifact.path(manifest.image_encoder.file))
        key = CompiledKey(artifact=artifact.digest, runtime=runtime, instruction_set=instruction_set(), threads=threads)
        with compiled_graphs(cache, key, self._sizes()) as folder:
            self._image_part, self._prompt_parts = self._compile_grounding(folder)
            self._mask_head = self._compile(self._read(manifest.mask_head), masks, folder)
        self._info = SessionInfo(
            runtime=runtime,
            provider=" ".join((DEVICE, "+".join(instruction_names()))).strip(),
            image_side=manifest.image_side,
            batch_size=1,
            threads=int(self._encoder.get_property("INFERENCE_NUM_THREADS")),
        )
        self._row_axes = row_axes(manifest)

    @staticmethod
    def check_installation(device: str) -> None:
        """Check that this runtime supports the device.

        Raises:
            ConfigurationError: It is not a CPU.
        """
        if device != "cpu":
            raise ConfigurationError(
                f"--device {device}: OpenVINO is used on CPUs only. Give --device cpu, or --runtime onnx"
            )

    @property
    def info(self) -> SessionInfo:
        """Properties that do not change while the session is open."""
        return self._info

    def encode_images(self, pixels: NDArray[np.uint8]) -> OpenVinoFeatures:
        """Encode images; see `job.model.session.Session`."""
        spec = self._artifact.manifest.image_encoder
        return OpenVinoFeatures(_run(self._encoder, {spec.inputs[0].name: padded_batch(pixels, self._info)}))

    def ground(self, features: ImageFeatures, text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        """Find every prompt in every encoded image; see `job.model.session.Session`."""
        if not isinstance(features, OpenVinoFeatures):
            raise TypeError(f"features of another session: {type(features).__name__}")
        spec = self._artifact.manifest.grounding
        *maps, text_features, text_mask = (x.name for x in spec.inputs)
        shared = _run(self._image_part, {name: features.maps[name] for name in maps})
        rows = [slice(i, i + 1) for i in range(len(text.mask))]
        found = [
            self._ground_prompt(shared | {text_features: text.features[row], text_mask: text.mask[row]}) for row in rows
        ]
        names = (x.name for x in spec.outputs)
        outputs = {name: np.concatenate([each[name] for each in found], axis=1) for name in names}
        row_masks = partial(self._row_masks, features.maps | outputs)
        return ground_rows(outputs[spec.outputs[0].name], score_threshold, self._artifact.manifest, row_masks)

    def _ground_prompt(self, inputs: Tensors) -> Tensors:
        """Outputs of the grounding graph for one image and one prompt.

        For three prompts at once the activations would take 0.6 GB more at full size, in the same processor time.
        """
        *parts, last = self._prompt_parts
        for part in parts:
            inputs = inputs | _run(part, inputs)
        return _run(last, inputs)

    def _row_masks(self, tensors: Tensors, image: int, prompt: int, queries: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mask logits (K, h, w) of queries (K,), from a row of the outputs of the other graphs."""
        spec = self._artifact.manifest.mask_head
        *rows, selected = spec.inputs
        inputs: Tensors = {selected.name: queries}
        for tensor in rows:
            value, axes = tensors[tensor.name], self._row_axes[tensor.name]
            row = row_number(axes, value.shape, {"batch": image, "prompts": prompt})
            inputs[tensor.name] = value.reshape(-1, *value.shape[len(axes) :])[row : row + 1]
        return _run(self._mask_head, inputs)[spec.outputs[0].name]

    def encode_text(self, token_ids: NDArray[np.int64]) -> TextFeatures:
        """Encode token ids; the text encoder is compiled for this call only."""
        spec = self._artifact.text_encoder()
        encoder = self._compile(self._read(spec, _ANY_PROMPTS), ov.Type.f32, None)
        outputs = _run(encoder, {spec.inputs[0].name: token_ids})
        features, mask = (outputs[output.name] for output in spec.outputs)
        return TextFeatures(features=features, mask=mask)

    def _sizes(self) -> list[int]:
        """Bytes of the files of each graph that the cache keeps; the parts of one graph share its weights."""
        manifest = self._artifact.manifest
        sizes = [manifest.graph_bytes(spec) for spec in (manifest.grounding, manifest.mask_head)]
        return [*sizes, 0] if self._fast == ov.Type.f32 else [*sizes, 0, 0]

    def _compile_grounding(self, cache: Path | None) -> tuple[Any, list[Any]]:
        """The part of the grounding graph that runs once an image, and those that run once a prompt."""
        spec = self._artifact.manifest.grounding
        text = [tensor.name for tensor in spec.inputs[-2:]]
        with _device_errors():
            image, rest = split_before_text(self._read(spec), text)
            parts = [rest] if self._fast == ov.Type.f32 else split_after_fusion(rest, spec.outputs[1].name, text)
        *fast, last = parts
        compiled = [self._compile(part, self._fast, cache) for part in (image, *fast)]
        return compiled[0], [*compiled[1:], self._compile(last, ov.Type.f32, cache)]

    def _read(self, spec: GraphSpec, sizes: Mapping[str, int] = _ONE_PROMPT) -> Any:
        """Read a graph, for calls of these sizes; other dimensions stay free."""
        with _device_errors():
            model = self._core.read_model(str(self._artifact.path(spec.file)))
            model.reshape({tensor.name: _shape(tensor.shape, sizes) for tensor in spec.inputs})
            keep_bfloat16(model)
            join_query_parts(model)
            return self._with_channels_last(model)

    def _with_channels_last(self, model: Any) -> Any:
        """Give and take the feature maps as (1, h, w, C), as convolutions compute, and not as (1, C, h, w)."""
        maps = {tensor.name for tensor in self._artifact.manifest.image_encoder.outputs}
        steps = PrePostProcessor(model)
        for values, step_of in ((model.inputs, steps.input), (model.outputs, steps.output)):
            for name in (value.any_name for value in values if value.any_name in maps):
                step_of(name).tensor().set_layout(ov.Layout("NHWC"))
                step_of(name).model().set_layout(ov.Layout("NCHW"))
        return steps.build()

    def _compile(self, model: Any, precision: ov.Type, cache: Path | None) -> Any:
        """Compile a graph, or load it from the folder of compiled graphs.

        Raises:
            DeviceError: OpenVINO failed, or would compute in another precision.
        """
        with _device_errors():
            compiled = self._core.compile_model(model, DEVICE, _options(self._threads, precision, cache))
            arithmetic = compiled.get_property(_PRECISION)
        if arithmetic != precision:
            raise DeviceError(
                f"OpenVINO {ov.get_version()} computes {self._artifact.folder} in {arithmetic} and not in {precision}: "
                "use an fp32 artifact with --runtime onnx"
            )
        return compiled


def _fast_type(precision: Precision) -> ov.Type:
    """The type of the parts of a model that take most of its time and are not rounded to integers."""
    is_bfloat16 = precision == "bf16" or (precision == "int8" and computes_bfloat16())
    return ov.Type.bf16 if is_bfloat16 else ov.Type.f32


def runtime_name() -> str:
    """Name and version of the library, as in `openvino 2026.4.1`."""
    return f"openvino {ov.get_version().partition('-')[0]}"


def _options(threads: int, precision: ov.Type, cache: Path | None) -> dict[str, Any]:
    """Options of every graph: its precision, deterministic, so many threads, one call at a time."""
    options = {
        _PRECISION: precision,  # without it a processor with bfloat16 instructions computes in bfloat16
        "EXECUTION_MODE_HINT": "ACCURACY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_HYPER_THREADING": True,  # a processor of a cloud machine is half a core; all given threads are used
        "ENABLE_CPU_PINNING": False,  # other processes and stages use the same cores
    }
    return options if cache is None else options | {"CACHE_DIR": str(cache)}


def _shape(shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> Any:
    """Shape of an input with the sizes of some of its symbols."""
    return ov.PartialShape([size if isinstance(size, int) else sizes.get(size, -1) for size in shape])


def _run(compiled: Any, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Run a graph on those of the tensors that it reads; several threads may do so at once.

    The outputs are the memory that this call has made for them; no later call writes to it. At full size a copy of the
    feature maps and of a prompt's keys and values takes 0.1 s an image, in one thread.

    A value may have several names: those of operators that OpenVINO has removed because they change nothing.
    """
    with _device_errors():
        request = compiled.create_infer_request()
        names = [next(name for name in value.names if name in tensors) for value in compiled.inputs]
        request.infer({name: np.ascontiguousarray(tensors[name]) for name in names}, **_SHARED)
        return {name: request.get_tensor(value).data for value in compiled.outputs for name in value.names}


@contextmanager
def _device_errors() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        raise device_failure("cpu", "OpenVINO", exc) from exc
