"""The network in training: its weights, their running average, and the optimizer."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from export.demo_model.architecture import TOKEN_TABLE, DemoConfig, build_model, load_weights, read_checkpoint
from export.demo_model.training.dense import DenseHeads
from export.demo_model.training.grounding import answers, features
from export.demo_model.training.losses import grounding_losses, weighted_sum
from export.demo_model.training.start_values import set_start_values
from export.demo_model.training.words import use_word_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from export.demo_model.training.batches import Batch

_HEADS = "heads."
_WEIGHT_DECAY, _BETAS = 0.02, (0.9, 0.98)
_MAX_GRADIENT_NORM = 1.0
# The decay of the running average rises from 0 to this value.
_AVERAGE_DECAY, _AVERAGE_WARMUP_STEPS = 0.995, 20
_NOT_DECAYED = ("embed", "reference_points")


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """The initial state of a learner.

    Attributes:
        config: Sizes of the network.
        seed: Seed of its random weights.
        initial: Checkpoint to start from instead.
    """

    config: DemoConfig
    seed: int = 0
    initial: Path | None = None


class Learner:
    """A network for pictures of one size, in training.

    Attributes:
        steps: Updates so far.
        parameters: Trainable parameters by name; names of the auxiliary heads begin with `heads.`.
    """

    def __init__(self, options: LearnerOptions, image_side_px: int) -> None:
        config = dataclasses.replace(options.config, image_side_px=image_side_px)
        self._model = build_model(config, options.seed)
        self._is_from_scratch = options.initial is None
        if options.initial is None:
            set_start_values(self._model)
        else:
            load_weights(self._model, read_checkpoint(options.initial)["model"], options.initial)
        self._words = use_word_table(self._model, from_scratch=self._is_from_scratch)
        self._model.train()
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            self._heads = DenseHeads(config.dim)
        named = [*self._model.named_parameters(), *((_HEADS + n, p) for n, p in self._heads.named_parameters())]
        self.parameters: dict[str, torch.nn.Parameter] = dict(named)
        self._average = {name: value.detach().clone() for name, value in named}
        self._optimizer = _optimizer(self.parameters)
        self.steps = 0

    def backward(self, batch: Batch) -> dict[str, float]:
        """Compute the gradients of a batch; returns its losses."""
        if batch.targets_are_dense:
            losses = self._heads.feature_losses(*features(self._model, batch.images), batch)
        else:
            output = answers(self._model, batch)
            losses = grounding_losses(output, batch.targets)
            if self._is_from_scratch:
                # The features of a checkpoint are trained already; an untrained head would degrade them.
                losses["fused"] = self._heads.fused_loss(output["memory"], batch)
        total = weighted_sum(losses)
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        return {"total": float(total.detach()), **{name: float(value.detach()) for name, value in losses.items()}}

    def gradient(self) -> Tensor:
        """The gradient of all trainable parameters, as one vector."""
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in self.parameters.values()]
        return torch.cat(parts)

    def update(self, gradient: Tensor, rate: float) -> None:
        """Make one optimizer step with a clipped gradient; a gradient that is not finite is skipped.

        Args:
            gradient: As `gradient` returns it.
            rate: Learning rate.
        """
        norm = float(gradient.norm())
        if math.isfinite(norm):
            gradient = gradient * min(1.0, _MAX_GRADIENT_NORM / (norm + 1e-6))
            parts = torch.split(gradient, [p.numel() for p in self.parameters.values()])
            for parameter, part in zip(self.parameters.values(), parts, strict=True):
                parameter.grad = part.view_as(parameter)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        self.steps += 1
        self._follow()

    def official_weights(self) -> dict[str, Tensor]:
        """The averaged weights, in the format of sam3's checkpoints."""
        weights = dict(self._model.state_dict())
        weights |= {name: value for name, value in self._average.items() if not name.startswith(_HEADS)}
        weights[TOKEN_TABLE] = self._words.full(weights[TOKEN_TABLE])
        return weights

    def state(self) -> dict[str, Any]:
        """The state that `resume` takes, of plain types and tensors."""
        return {
            "weights": {name: value.detach() for name, value in self.parameters.items()},
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
        }

    @torch.no_grad()
    def resume(self, state: Mapping[str, Any]) -> None:
        """Resume from a state; the picture size may differ."""
        for name, value in self.parameters.items():
            value.copy_(state["weights"][name])
            self._average[name].copy_(state["average"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps = int(state["steps"])

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(_AVERAGE_DECAY, (1 + self.steps) / (_AVERAGE_WARMUP_STEPS + self.steps))
        averages = list(self._average.values())
        torch._foreach_lerp_(averages, [p.detach() for p in self.parameters.values()], 1 - decay)


def _optimizer(parameters: Mapping[str, torch.nn.Parameter]) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices, without it on biases, norms and embeddings."""
    free = {name for name, p in parameters.items() if p.dim() < 2 or any(part in name for part in _NOT_DECAYED)}
    groups = [
        {"params": [p for name, p in parameters.items() if name not in free], "weight_decay": _WEIGHT_DECAY},
        {"params": [p for name, p in parameters.items() if name in free], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=_BETAS)
