"""The layouts of checkpoints: which keys are weights of the image model, and of which version they are.

| Layout | Keys of the image model | Other keys, which are ignored |
|---|---|---|
| SAM 3 (`sam3.pt`) | `detector.` | `tracker.`, and `sam2_convs` in the neck |
| SAM 3.1 (`sam3.1_multiplex.pt`) | `detector.`, without the neck's `convs.3` | `tracker.model.`, `interactive_convs`, \
`propagation_convs` |
| before release | `sam3_model.` for `detector.` | `sam2_predictor.` for `tracker.` |
| sam3's trainer | without a prefix | the optimizer beside the model, `inst_interactive_predictor.` |

Each may be inside a dictionary `{"model": …}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from job.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_DETECTOR, _TRACKER = "detector.", "tracker."
_OLD_PREFIXES = {"sam3_model.": _DETECTOR, "sam2_predictor.": _TRACKER}
_NECK = "backbone.vision_backbone."
_TRUNK = f"{_NECK}trunk."
_DUAL_NECK = f"{_NECK}sam2_convs."
_TRI_NECK = (f"{_NECK}interactive_convs.", f"{_NECK}propagation_convs.")
_CLICKS = "inst_interactive_predictor."
_UNREAD_LEVEL = f"{_NECK}convs.3."
"""The neck's coarsest level. sam3's backbone drops its output; SAM 3.1 has no weights for it."""
_TRANSFORMERS = ("detector_model.", "tracker_model.", "vision_encoder.", "detr_encoder.", "detr_decoder.")
# Constants that the model computes; a checkpoint may or may not contain them.
_COMPUTED = ".freqs_cis"
_SHOWN_KEYS = 5


@dataclass(frozen=True)
class DetectorWeights:
    """Weights of the image model.

    Attributes:
        tensors: By their names in `Sam3Image`.
        is_sam31: Whether the checkpoint has the layout of SAM 3.1.
    """

    tensors: dict[str, torch.Tensor]
    is_sam31: bool


def detector_weights(content: Mapping[str, Any], path: Path) -> DetectorWeights:
    """Extract the image model's weights from a checkpoint.

    Args:
        content: What the file holds.
        path: The file, for errors.

    Raises:
        ConfigurationError: The layout is none of this module's.
    """
    inner = content.get("model")
    named = {_renamed(str(key)): value for key, value in (inner if isinstance(inner, dict) else content).items()}
    _refuse_transformers(named, path)
    weights = _of_the_detector(named, path)
    not_tensors = [key for key, value in weights.items() if not isinstance(value, torch.Tensor)]
    if not_tensors:
        raise ConfigurationError(f"--checkpoint {path} holds values that are no tensors: {_some(not_tensors)}")
    has_tri_neck = any(key.startswith(_TRI_NECK) for key in weights)
    has_dual_neck = any(key.startswith((_DUAL_NECK, _UNREAD_LEVEL)) for key in weights)
    unused = (_DUAL_NECK, *_TRI_NECK, _CLICKS)
    tensors = {key: value for key, value in weights.items() if not key.startswith(unused)}
    return DetectorWeights(tensors, is_sam31=has_tri_neck or not has_dual_neck)


def load_strictly(model: Any, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy weights into a model, as float32.

    A missing weight, an unexpected one or a wrong shape is an error. Only the neck's level that sam3's backbone drops
    may be missing; the model then loses it.

    Args:
        model: A `Sam3Image`.
        weights: By their names in the model.
        path: The file that they come from, for errors.

    Raises:
        ConfigurationError: The weights do not match this model.
    """
    if not any(key.startswith(_UNREAD_LEVEL) for key in weights):
        _drop_unread_level(model)
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


def _renamed(key: str) -> str:
    for old, new in _OLD_PREFIXES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _refuse_transformers(named: Iterable[str], path: Path) -> None:
    found = [key for key in named if key.startswith(_TRANSFORMERS)]
    if found:
        raise ConfigurationError(
            f"--checkpoint {path} is a checkpoint of the transformers library ({_some(found)}), which splits and "
            "renames the weights. Give sam3.pt or sam3.1_multiplex.pt of the same Hugging Face repository, or `hub`"
        )


def _of_the_detector(named: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if any(key.startswith(_TRUNK) for key in named):
        return dict(named)
    foreign = [key for key in named if not key.startswith((_DETECTOR, _TRACKER))]
    weights = {key.removeprefix(_DETECTOR): x for key, x in named.items() if key.startswith(_DETECTOR)}
    if foreign or not weights:
        raise ConfigurationError(
            f"--checkpoint {path} is not an official sam3.pt or sam3.1_multiplex.pt, whose keys begin with {_DETECTOR} "
            f"or {_TRACKER}, nor one of sam3's trainer, whose keys begin with {_TRUNK}: "
            f"it has {_some(foreign) or 'none of the detector'}"
        )
    return weights


def _drop_unread_level(model: Any) -> None:
    backbone = model.backbone
    if backbone.scalp:
        neck = backbone.vision_backbone
        neck.convs = neck.convs[: len(neck.convs) - backbone.scalp]
        backbone.scalp = 0


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN_KEYS])
    return shown + (", …" if len(keys) > _SHOWN_KEYS else "")
