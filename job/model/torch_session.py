"""Session that runs a TorchScript artifact with PyTorch. Loading one executes its code: see `job.model.loader`.

The contract is that of `job.model.onnx_session`: one image at a time on a CPU, batches of one size on a GPU, features
stay on the device.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from job.errors import ConfigurationError, DeviceError
from job.model.gpu import GpuNeeds, device_failure
from job.model.session import Grounding, SessionInfo, TextFeatures, ground_rows, padded_batch, row_axes, row_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from job.model.artifact import Artifact, GraphSpec
    from job.model.session import ImageFeatures


@dataclass(frozen=True)
class TorchFeatures:
    """Feature maps on the device, and the number of their rows that are images; the rest is padding."""

    maps: tuple[torch.Tensor, ...]
    images: int


class TorchSession:
    """The graphs of a TorchScript artifact, loaded. Implements `job.model.session.Session`."""

    def __init__(self, artifact: Artifact, *, device: str, batch_size: int, threads: int) -> None:
        check_device(device)
        _make_deterministic()
        self._artifact = artifact
        self._device = torch.device(device)
        if device == "cpu":
            torch.set_num_threads(threads)
        self._info = SessionInfo(
            runtime=f"torch {torch.__version__}",
            provider=device,
            image_side=artifact.manifest.image_side,
            batch_size=batch_size if device == "cuda" else 1,
            threads=threads if device == "cpu" else 0,
        )
        self._encoder = self._load(artifact.manifest.image_encoder)
        self._grounding = self._load(artifact.manifest.grounding)
        self._mask_head = self._load(artifact.manifest.mask_head)
        self._row_axes = row_axes(artifact.manifest)

    @property
    def info(self) -> SessionInfo:
        """Properties that do not change while the session is open."""
        return self._info

    def encode_images(self, pixels: NDArray[np.uint8]) -> TorchFeatures:
        """Encode images; see `job.model.session.Session`."""
        padded = padded_batch(pixels, self._info)
        with self._running():
            maps = self._encoder(torch.from_numpy(padded).to(self._device))
        return TorchFeatures(maps=tuple(maps), images=len(pixels))

    def ground(self, features: ImageFeatures, text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        """Find every prompt in every encoded image; see `job.model.session.Session`."""
        if not isinstance(features, TorchFeatures):
            raise TypeError(f"features of another session: {type(features).__name__}")
        manifest = self._artifact.manifest
        tensors = dict(zip((x.name for x in manifest.image_encoder.outputs), features.maps, strict=True))
        maps = (tensors[spec.name] for spec in manifest.grounding.inputs[:-2])
        with self._running():
            prompts = (torch.from_numpy(x).to(self._device) for x in (text.features, text.mask))
            outputs = self._grounding(*maps, *prompts)
            tensors |= zip((spec.name for spec in manifest.grounding.outputs), outputs, strict=True)
            scores = outputs[0].cpu().numpy()[: features.images]
        return ground_rows(scores, score_threshold, manifest, partial(self._row_masks, tensors))

    def _row_masks(
        self, tensors: dict[str, torch.Tensor], image: int, prompt: int, queries: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Mask logits (K, h, w) of queries (K,), from a row of tensors that stay on the device."""
        rows = []
        for spec in self._artifact.manifest.mask_head.inputs[:-1]:
            value, axes = tensors[spec.name], self._row_axes[spec.name]
            row = row_number(axes, value.shape, {"batch": image, "prompts": prompt})
            rows.append(value.flatten(0, len(axes) - 1)[row : row + 1])
        with self._running():
            masks: NDArray[np.float32] = (
                self._mask_head(*rows, torch.from_numpy(queries).to(self._device)).cpu().numpy()
            )
        return masks

    def encode_text(self, token_ids: NDArray[np.int64]) -> TextFeatures:
        """Encode token ids; the text encoder is loaded for this call only."""
        encoder = self._load(self._artifact.text_encoder())
        with self._running():
            features, mask = encoder(torch.from_numpy(token_ids).to(self._device))
            return TextFeatures(features=features.cpu().numpy(), mask=mask.cpu().numpy())

    def _load(self, spec: GraphSpec) -> Any:
        path = str(self._artifact.path(spec.file))
        with self._running(), warnings.catch_warnings():
            # torch has deprecated the format; this version still runs it.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(path, map_location=self._device)  # type: ignore[no-untyped-call]

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Run without gradients and without the profiling executor, which rewrites a graph after its first runs."""
        try:
            with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                yield
        except RuntimeError as exc:
            raise device_failure(str(self._device), "torch", exc) from exc


def _make_deterministic() -> None:
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def check_device(device: str) -> None:
    """Check that torch can use a device.

    Raises:
        ConfigurationError: torch was built without CUDA.
        DeviceError: No GPU responds.
    """
    if device != "cuda":
        return
    if torch.version.cuda is None:
        raise ConfigurationError(
            f"--device cuda: this installation of torch ({torch.__version__}) was built without CUDA. "
            "Install one with it, or give --device cpu"
        )
    if not torch.cuda.is_available():
        raise DeviceError("--device cuda: torch finds no GPU that answers. See `nvidia-smi`, or give --device cpu")


def gpu_needs() -> GpuNeeds:
    """What this installation of torch needs of a GPU."""
    major, _, minor = (torch.version.cuda or "").partition(".")
    cuda = (int(major), int(minor or 0)) if major else None
    built_for = [int(name[3:]) for name in torch.cuda.get_arch_list() if name[3:].isdigit()]  # as in sm_75
    return GpuNeeds(f"torch {torch.__version__}", cuda, divmod(min(built_for, default=0), 10))


def try_gpu() -> None:
    """Compute one sum on the GPU.

    Raises:
        ConfigurationError: See `check_device`.
        DeviceError: torch cannot use the GPU; the message holds its own words.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a driver that is too old; the error says it too
            torch.ones(1, device="cuda").sum().item()
    except (RuntimeError, AssertionError) as exc:
        raise device_failure("cuda", "torch", exc) from exc
