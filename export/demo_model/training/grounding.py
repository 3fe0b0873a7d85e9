"""The forward pass of a training batch, in the steps of `Sam3Image.forward_grounding`.

That method also calls sam3's matcher, which needs a GPU; here the losses do the matching.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from export.demo_model.training.batches import Batch


@contextmanager
def trainable_on_cpu() -> Iterator[None]:
    """Make sam3 trainable on a CPU: without pinned memory and without activation checkpointing.

    sam3 always uses activation checkpointing in training. It saves memory and costs time.
    """
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.Tensor, "pin_memory", _unpinned))
        stack.enter_context(patch("torch.utils.checkpoint.checkpoint", _called_once))
        yield


def answers(model: Any, batch: Batch) -> dict[str, Any]:
    """The network's predictions for all pairs of a batch; "memory" holds the fused features (G*G, P, D)."""
    from sam3.model.data_misc import FindStage

    features = model.backbone.forward_image(batch.images)
    features.update(model.backbone.forward_text(batch.words, device="cpu"))
    stage = FindStage(
        img_ids=batch.picture_of_pair, text_ids=batch.word_of_pair, input_boxes=None, input_boxes_mask=None,
        input_boxes_label=None, input_points=None, input_points_mask=None,
    )  # fmt: skip
    no_boxes = model._get_dummy_prompt(len(batch.picture_of_pair))
    prompt, prompt_mask, features = model._encode_prompt(features, stage, no_boxes)
    features, fused, _ = model._run_encoder(features, stage, prompt, prompt_mask)
    asked = {"prompt": prompt, "prompt_mask": prompt_mask}
    memory = fused["encoder_hidden_states"]
    output, queries = model._run_decoder(
        memory=memory, pos_embed=fused["pos_embed"], src_mask=fused["padding_mask"], out={}, encoder_out=fused, **asked
    )
    model._run_segmentation_heads(
        out=output, backbone_out=features, img_ids=batch.picture_of_pair, vis_feat_sizes=fused["vis_feat_sizes"],
        encoder_hidden_states=memory, hs=queries, **asked,
    )  # fmt: skip
    return {**output, "memory": memory}


def features(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Finest and coarsest features of pictures (B, 3, S, S): (B, D, 4G, 4G) and (B, D, G, G)."""
    vision = model.backbone.vision_backbone
    trunk_features = vision.trunk(images)[-1]
    return vision.convs[0](trunk_features), vision.convs[2](trunk_features)


def _unpinned(self: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return self


def _called_once(function: Callable[..., Any], *args: Any, use_reentrant: bool = False, **kwargs: Any) -> Any:
    del use_reentrant
    # sam3 replaces tensors without a parameter of the function by a placeholder, which a plain call must not receive.
    return function(*args, **{key: value for key, value in kwargs.items() if not isinstance(value, str)})
