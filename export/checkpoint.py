"""Loads checkpoints: official ones, SAM 3 or SAM 3.1, and the demo model.

sam3's own loader ignores keys that do not match and prints them; here a missing or unexpected key is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.checkpoint_file import read_checkpoint
from export.checkpoint_layout import detector_weights, load_strictly
from export.hub import download, is_on_hub
from export.sam3_runtime import quiet, require_sam3, running_on, vocabulary_path
from job.model.artifact import DEMO_MODEL_ID, file_entry

if TYPE_CHECKING:
    from collections.abc import Mapping

DEMO_FORMAT_PREFIX = "sam3-annotate-demo/"
OFFICIAL_MODEL_ID, SAM31_MODEL_ID = "SAM3", "SAM3.1"


@dataclass(frozen=True)
class Original:
    """A model as sam3 builds it, and the source of its weights.

    Attributes:
        model: A `Sam3Image` in evaluation mode, float32, on the CPU.
        sam3_version: Version of the sam3 package.
        checkpoint_sha256: Digest of the checkpoint file.
        model_id: Name in the annotations: `SAM3`, `SAM3.1` or `SAM3-demo`.
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
        return self.model_id == DEMO_MODEL_ID


def load_original(checkpoint: str) -> Original:
    """Load a checkpoint.

    Args:
        checkpoint: `demo`, `hub`, `hub:` and a repository, or the path of a file.

    Raises:
        UsageError: There is no such file or repository.
        ConfigurationError: It is not a checkpoint, its keys do not match, or it cannot be downloaded.
    """
    sam3_version = require_sam3()
    with quiet():
        if checkpoint == "demo":
            return _load_file(demo_checkpoint_path(), sam3_version)
        path = download(checkpoint) if is_on_hub(checkpoint) else Path(checkpoint)
        return _load_file(path, sam3_version)


def demo_checkpoint_path() -> Path:
    """Path of the demo checkpoint in this package."""
    return Path(str(resources.files("export.demo_model") / "checkpoint.pt"))


def _load_file(path: Path, sam3_version: str) -> Original:
    content = read_checkpoint(path)
    is_demo = str(content.get("format", "")).startswith(DEMO_FORMAT_PREFIX)
    model, model_id = (_load_demo(path), DEMO_MODEL_ID) if is_demo else _load_official(content, path)
    return Original(
        model=model.eval().requires_grad_(False),
        sam3_version=sam3_version,
        checkpoint_sha256=file_entry(path).sha256,
        model_id=model_id,
        weights_licence="Apache-2.0" if is_demo else "SAM License",
    )


def _load_demo(path: Path) -> Any:
    from export.demo_model.architecture import load_checkpoint

    model, _ = load_checkpoint(path)
    return model


def _load_official(content: Mapping[str, Any], path: Path) -> tuple[Any, str]:
    weights = detector_weights(content, path)
    model = build_official()
    load_strictly(model, weights.tensors, path)
    return model, SAM31_MODEL_ID if weights.is_sam31 else OFFICIAL_MODEL_ID


def build_official() -> Any:
    """Build sam3's image model at full size, without weights."""
    from sam3.model_builder import build_sam3_image_model

    with running_on("cpu"):
        return build_sam3_image_model(
            bpe_path=vocabulary_path(), device="cpu", checkpoint_path=None, load_from_HF=False
        )
