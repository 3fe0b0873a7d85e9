"""Official checkpoint layouts of a model with given weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NECK = "detector.backbone.vision_backbone."


def sam3_layout(model: Any) -> dict[str, Tensor]:
    """`sam3.pt`: the detector with a second neck, and the tracker."""
    weights = {f"detector.{key}": value for key, value in model.state_dict().items()}
    return {**weights, **_necks(weights, "sam2_convs"), "tracker.maskmem_tpos_enc": torch.zeros(7, 1, 1, 4)}


def sam31_layout(model: Any) -> dict[str, Tensor]:
    """`sam3.1_multiplex.pt`: the detector with three necks of three levels, and the tracker."""
    everything = {f"detector.{key}": value for key, value in model.state_dict().items()}
    weights = {key: value for key, value in everything.items() if not key.startswith(f"{_NECK}convs.3.")}
    necks = {**_necks(weights, "interactive_convs"), **_necks(weights, "propagation_convs")}
    return {**weights, **necks, "tracker.model.maskmem_tpos_enc": torch.zeros(7, 1, 1, 4)}


def _necks(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    own = f"{_NECK}convs."
    return {
        f"{_NECK}{name}.{k.removeprefix(own)}": torch.zeros_like(x) for k, x in weights.items() if k.startswith(own)
    }
