"""The memory that a model needs, and the check against the memory limit of this process."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from job.errors import ConfigurationError
from job.model.artifact import Artifact, Manifest
from job.model.session import Runtime
from job.run.options import WorkerOptions
from job.system.resources import available_memory, memory_limit

logger = logging.getLogger(__name__)

CPU_IN_FLIGHT = 2
"""Images in flight on a CPU where `--batch_size` is not given."""
PROCESS_BYTES = 100 << 20
"""Python, the libraries and the images between the stages; measured with the demo model."""
_CPU_GRAPH_FACTOR = 1.75
"""ONNX Runtime copies the weights of matrix products into a packed layout while it loads them."""
_ACTIVATIONS_PER_MAP = 30
"""Bytes of activations for one byte of the finest feature map in float32, 85 MB at full size.

Measured at full size in fp32, three prompts, each graph alone: 0.6 GB for the image encoder, 0.75 GB for the grounding
and 0.5 GB for the mask head, whose memory ONNX Runtime keeps apart: 22 times the map. The rest is a margin.
"""
_OPENVINO_ENCODER_FACTOR = 1.1
"""OpenVINO packs the weights of the image encoder and reads them from a mapped file, whose pages are released."""
_OPENVINO_GRAPH_FACTOR = 5.0
"""Grounding and mask head, 119 MB at full size: OpenVINO keeps what it has read beside what it has packed."""
_OPENVINO_SHARED_PER_MAP, _OPENVINO_ACTIVATIONS_PER_MAP = 12, 7
"""Likewise; the buffers of the graphs, which calls share, and what each image in flight has of its own."""
_GIB = 1 << 30


@dataclass(frozen=True)
class MemoryNeed:
    """An estimate of the memory that a worker needs, in bytes.

    Attributes:
        graphs: For the loaded graphs.
        activations: For each image in flight.
    """

    graphs: int
    activations: int

    def total(self, in_flight: int) -> int:
        """For the whole process with so many images in flight."""
        return PROCESS_BYTES + self.graphs + in_flight * self.activations


def memory_need(manifest: Manifest, device: str, runtime: Runtime = "onnx") -> MemoryNeed:
    """Estimate the memory of the host that a worker needs, without the page cache.

    On a GPU the weights pass through the memory of the host and the activations do not. TorchScript graphs compute
    attention block by block: their activations are small.
    """
    encoder = manifest.graph_bytes(manifest.image_encoder)
    others = sum(map(manifest.graph_bytes, (manifest.grounding, manifest.mask_head)))
    if runtime == "openvino":
        finest = _finest_map(manifest)
        packed = int(_OPENVINO_ENCODER_FACTOR * encoder + _OPENVINO_GRAPH_FACTOR * others)
        return MemoryNeed(packed + _OPENVINO_SHARED_PER_MAP * finest, _OPENVINO_ACTIVATIONS_PER_MAP * finest)
    graphs = encoder + others
    if device != "cpu" or manifest.format != "onnx":
        return MemoryNeed(graphs, 0)
    return MemoryNeed(int(graphs * _CPU_GRAPH_FACTOR), _ACTIVATIONS_PER_MAP * _finest_map(manifest))


def check_memory(artifact: Artifact, options: WorkerOptions) -> None:
    """Check that the memory limit allows one image in flight in each worker process.

    Raises:
        ConfigurationError: It does not.
    """
    limit = memory_limit() // options.workers
    need = memory_need(artifact.manifest, options.device, options.runtime)
    if need.total(1) <= limit:
        return
    workers = options.workers
    who, advice = ("this process", "") if workers == 1 else (f"each of {workers} workers", ", give fewer --workers")
    raise ConfigurationError(
        f"the model needs about {_gib(need.total(1))} of memory with one image in flight ({_gib(need.graphs)} for its "
        f"graphs, {_gib(need.activations)} for activations), and the memory limit leaves {who} {_gib(limit)}: "
        f"raise the limit to at least {_gib(need.total(1) * workers)}{advice}, or use a machine with more memory"
    )


def images_in_flight(artifact: Artifact, options: WorkerOptions) -> int:
    """Concurrent calls of the model; on a CPU, as many as requested and as fit into memory."""
    if options.device != "cpu":
        return 1
    wanted = options.batch_size or CPU_IN_FLIGHT
    available = options.memory_limit or available_memory() + PROCESS_BYTES
    need = memory_need(artifact.manifest, options.device, options.runtime)
    in_flight = wanted
    while in_flight > 1 and need.total(in_flight) > available:
        in_flight -= 1
    if in_flight < wanted:
        logger.warning(
            "%d images in flight need about %s of memory and %s are available: %d in flight",
            wanted,
            _gib(need.total(wanted)),
            _gib(available),
            in_flight,
        )
    return in_flight


def _finest_map(manifest: Manifest) -> int:
    """Bytes of one image's largest feature map in float32."""
    shapes = [spec.shape[1:] for spec in manifest.image_encoder.outputs]
    return max((4 * math.prod(size for size in shape if isinstance(size, int)) for shape in shapes), default=0)


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size >> 20} MiB"
