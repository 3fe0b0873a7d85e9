"""Loads checkpoints: the official `sam3.pt` and the demo model.

sam3's own loader ignores keys that do not match and prints them; here a missing or unexpected key is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from export.checkpoint_file import read_checkpoint
from export.sam3_runtime import quiet, require_sam3, running_on, vocabulary_path
from job.errors import ConfigurationError
from job.model.artifact import file_entry

if TYPE_CHECKING:
    from collections.abc import Mapping

HUB_REPOSITORY, HUB_FILE = "facebook/sam3", "sam3.pt"
DEMO_FORMAT_PREFIX = "sam3-annotate-demo/"
_DETECTOR, _TRACKER = "detector.", "tracker."
# The checkpoint also has the weights of the video model, whose detector has a second neck.
_VIDEO_ONLY = "backbone.vision_backbone.sam2_convs."
# Constants that the model computes; a checkpoint may or may not carry them.
_COMPUTED = ".freqs_cis"
_SHOWN_KEYS = 5


@dataclass(frozen=True)
class Original:
    """A model as sam3 builds it, and the source of its weights.

    Attributes:
        model: A `Sam3Image` in evaluation mode, float32, on the CPU.
        sam3_version: Version of the sam3 package.
        checkpoint_sha256: Digest of the checkpoint file.
        model_id: Name in the annotations.
        weights_licence: Licence of the weights.
    """

    model: Any
    sam3_version: str
    checkpoint_sha256: str
    model_id: str
    weights_licence: str

    @property
    def is_demo(self) -> bool:
        """Whether this is the demo model."""
        return self.model_id != "SAM3"


def load_original(checkpoint: str) -> Original:
    """Load a checkpoint.

    Args:
        checkpoint: `demo`, `hub`, or the path of a file.

    Raises:
        UsageError: There is no such file.
        ConfigurationError: It is not a checkpoint, its keys do not match, or it cannot be downloaded.
    """
    sam3_version = require_sam3()
    with quiet():
        if checkpoint == "demo":
            return _load_file(demo_checkpoint_path(), sam3_version)
        path = download() if checkpoint == "hub" else Path(checkpoint)
        return _load_file(path, sam3_version)


def demo_checkpoint_path() -> Path:
    """Path of the demo checkpoint in this package."""
    return Path(str(resources.files("export.demo_model") / "checkpoint.pt"))


def download() -> Path:
    """Download the official checkpoint with the user's own credentials.

    Raises:
        ConfigurationError: No access, or no connection.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id=HUB_REPOSITORY, filename=HUB_FILE))
    except GatedRepoError as exc:
        raise ConfigurationError(
            f"no access to {HUB_REPOSITORY}: accept its licence at https://huggingface.co/{HUB_REPOSITORY}, "
            "log in with `hf auth login` (or set HF_TOKEN), and export again"
        ) from exc
    except (HfHubHTTPError, LocalEntryNotFoundError) as exc:
        raise ConfigurationError(
            f"{HUB_FILE} could not be downloaded from {HUB_REPOSITORY}: {exc}. "
            "Try again, or give the path of a downloaded file as --checkpoint"
        ) from exc


def _load_file(path: Path, sam3_version: str) -> Original:
    content = read_checkpoint(path)
    demo = str(content.get("format", "")).startswith(DEMO_FORMAT_PREFIX)
    model = _build_demo(path) if demo else _build_official(content, path)
    return Original(
        model=model.eval().requires_grad_(False),
        sam3_version=sam3_version,
        checkpoint_sha256=file_entry(path).sha256,
        model_id="SAM3-demo" if demo else "SAM3",
        weights_licence="Apache-2.0" if demo else "SAM License",
    )


def _build_demo(path: Path) -> Any:
    from export.demo_model.architecture import load_checkpoint

    model, _ = load_checkpoint(path)
    return model


def _build_official(content: Mapping[str, Any], path: Path) -> Any:
    inner = content.get("model")
    weights = detector_weights(inner if isinstance(inner, dict) else content, path)
    model = build_official()
    load_strictly(model, weights, path)
    return model


def build_official() -> Any:
    """Build sam3's image model at full size, without weights."""
    from sam3.model_builder import build_sam3_image_model

    with running_on("cpu"):
        return build_sam3_image_model(
            bpe_path=vocabulary_path(), device="cpu", checkpoint_path=None, load_from_HF=False
        )


def detector_weights(content: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """Extract the image model's weights from an official checkpoint.

    Raises:
        ConfigurationError: It has keys outside detector and tracker, or none of the detector.
    """
    foreign = [key for key in content if not str(key).startswith((_DETECTOR, _TRACKER))]
    weights = {key.removeprefix(_DETECTOR): x for key, x in content.items() if str(key).startswith(_DETECTOR)}
    if foreign or not weights:
        raise ConfigurationError(
            f"--checkpoint {path} is not an official sam3.pt, whose keys begin with {_DETECTOR} or {_TRACKER}: "
            f"it has {_some(foreign) or 'none of the detector'}"
        )
    return {key: x for key, x in weights.items() if not key.startswith(_VIDEO_ONLY)}


def load_strictly(model: Any, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load weights; a missing weight, an unexpected one or a wrong shape is an error.

    Raises:
        ConfigurationError: The weights do not match this model.
    """
    expected = model.state_dict()
    missing = [key for key in expected if key not in weights and not key.endswith(_COMPUTED)]
    unexpected = [key for key in weights if key not in expected]
    misshapen = [key for key in weights if key in expected and weights[key].shape != expected[key].shape]
    for problem, keys in (("misses", missing), ("has unknown", unexpected), ("has misshapen", misshapen)):
        if keys:
            raise ConfigurationError(
                f"--checkpoint {path} {problem} weights ({len(keys)}): {_some(keys)}. "
                "It is of another version than the sam3 package"
            )
    model.load_state_dict(weights, strict=False)


def _some(keys: list[str]) -> str:
    shown = ", ".join(map(str, keys[:_SHOWN_KEYS]))
    return shown + (", …" if len(keys) > _SHOWN_KEYS else "")
