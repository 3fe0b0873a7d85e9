"""The session protocol: one interface to run a model, independent of the runtime.

`encode_images` runs the image encoder once for each image, the expensive part; `ground` runs the grounding graph on
its features for a list of prompts, then the mask head once for each image and prompt that has a selected query.
Features stay in device memory; `ground` returns only scores and the mask logits of the selected queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from job.model.artifact import Manifest


@dataclass(frozen=True)
class TextFeatures:
    """Encoded prompts, in prompt order.

    Attributes:
        features: float32 (P, L, C), L tokens of width C for each prompt.
        mask: bool (P, L), True where a token is padding.
    """

    features: NDArray[np.float32]
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Check that both arrays have the same prompts and tokens."""
        if self.features.ndim != 3 or self.features.shape[:2] != self.mask.shape:
            raise ValueError(f"text features {self.features.shape} and mask {self.mask.shape} do not fit")


@dataclass(frozen=True)
class Grounding:
    """Output of the model for one image.

    Attributes:
        scores: float32 (P, Q), 0 to 1, query score times presence score, for every prompt and query.
        selected: int64 (K, 2), (prompt, query) of the scores above the threshold, prompt then query ascending.
        mask_logits: float32 (K, h, w), the selected masks on the model's own grid; > 0 is inside. The grid
            spans the whole upright image, corners not aligned.
    """

    scores: NDArray[np.float32]
    selected: NDArray[np.int64]
    mask_logits: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Check that there is one index for each mask."""
        if self.selected.shape != (len(self.mask_logits), 2):
            raise ValueError(f"{self.selected.shape} selected for masks {self.mask_logits.shape}")


@dataclass(frozen=True, kw_only=True)
class SessionInfo:
    """Properties that do not change while a session is open.

    Attributes:
        runtime: Name and version of the library, as in `onnxruntime 1.31.1`.
        provider: Execution provider, as in `CPUExecutionProvider`; of OpenVINO, `CPU` and its instruction sets.
        image_side: Side of the model's square input, in pixels.
        batch_size: Images in one call of `encode_images`; the session pads a smaller batch.
        threads: Threads inside one operator; 0 on an accelerator.
    """

    runtime: str
    provider: str
    image_side: int
    batch_size: int
    threads: int


class ImageFeatures(Protocol):
    """A handle of encoded images; only the session that made it can read it."""


class Session(Protocol):
    """A loaded model. One thread at a time may call it."""

    @property
    def info(self) -> SessionInfo:
        """Properties that do not change while the session is open."""
        ...

    def encode_images(self, pixels: NDArray[np.uint8]) -> ImageFeatures:
        """Encode images.

        Args:
            pixels: uint8 (n, S, S, 3) RGB, 0 to 255, resized to the model's side; 1 <= n <= batch_size.

        Raises:
            DeviceError: The device failed or ran out of memory.
        """
        ...

    def ground(self, features: ImageFeatures, text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        """Find every prompt in every encoded image; returns one `Grounding` for each image, in order.

        Raises:
            DeviceError: The device failed or ran out of memory.
        """
        ...

    def encode_text(self, token_ids: NDArray[np.int64]) -> TextFeatures:
        """Encode token ids, int64 (P, L), 0 is padding.

        Raises:
            ArtifactError: The artifact came without its text encoder.
        """
        ...


def padded_batch(pixels: NDArray[np.uint8], info: SessionInfo) -> NDArray[np.uint8]:
    """Check the shape of pixels (n, S, S, 3) and pad them with black to the session's batch size."""
    side = info.image_side
    if not 1 <= len(pixels) <= info.batch_size or pixels.shape[1:] != (side, side, 3):
        raise ValueError(f"pixels {pixels.shape} for batches of up to {info.batch_size} of side {side}")
    if len(pixels) == info.batch_size:
        return np.ascontiguousarray(pixels)
    padding = np.zeros((info.batch_size - len(pixels), side, side, 3), np.uint8)
    return np.concatenate((pixels, padding))


RowMasks = Callable[[int, "NDArray[np.int64]"], "NDArray[np.float32]"]
ImageRowMasks = Callable[[int, int, "NDArray[np.int64]"], "NDArray[np.float32]"]
"""A prompt and the numbers of its selected queries (K,) to their mask logits (K, h, w)."""


def select_masks(
    scores: NDArray[np.float32], score_threshold: float, mask_hw: tuple[int, int], row_masks: RowMasks
) -> Grounding:
    """Run the mask head of one image for each prompt that has a score above the threshold.

    Args:
        scores: (P, Q).
        score_threshold: A query is selected when its score is above it.
        mask_hw: Height and width of the mask logits.
        row_masks: Runs the mask head for a prompt and its selected queries (K,): (K, h, w).
    """
    selected = np.argwhere(scores > np.float32(score_threshold))
    masks = [np.zeros((0, *mask_hw), np.float32)]
    for prompt in np.unique(selected[:, 0]).tolist():
        masks.append(row_masks(prompt, selected[selected[:, 0] == prompt, 1]))
    return Grounding(scores=scores, selected=selected, mask_logits=np.concatenate(masks))


def ground_rows(
    scores: NDArray[np.float32], score_threshold: float, manifest: Manifest, row_masks: ImageRowMasks
) -> tuple[Grounding, ...]:
    """Run the mask head of a batch for each image and prompt that has a score above the threshold.

    Args:
        scores: (B, P, Q).
        score_threshold: A query is selected when its score is above it.
        manifest: Of the artifact.
        row_masks: Runs the mask head for an image, a prompt and its selected queries (K,): (K, h, w).
    """
    height, width = manifest.mask_head.outputs[0].shape[1:]
    return tuple(
        select_masks(of_image, score_threshold, (int(height), int(width)), partial(row_masks, image))
        for image, of_image in enumerate(scores)
    )


def row_axes(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """Names of the leading dimensions, `batch`, `prompts` or both, of each tensor that the mask head takes rows of."""
    made = (*manifest.image_encoder.outputs, *manifest.grounding.outputs)
    return {spec.name: tuple(size for size in spec.shape if isinstance(size, str)) for spec in made}


def row_number(axes: Sequence[str], shape: Sequence[int], at: Mapping[str, int]) -> int:
    """Number of a row in a tensor whose leading dimensions are flattened.

    Args:
        axes: Names of the leading dimensions.
        shape: Sizes of all dimensions.
        at: Index along each leading dimension, by name.
    """
    row = 0
    for axis, size in zip(axes, shape, strict=False):
        row = row * size + at[axis]
    return row


Device = Literal["cuda", "cpu"]


Runtime = Literal["onnx", "openvino", "torch"]


RuntimeFlag = Literal["auto", "onnx", "openvino", "torch"]
