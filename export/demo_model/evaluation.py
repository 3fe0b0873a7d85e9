"""Evaluates a checkpoint on held-out scenes with the official processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.demo_model.architecture import load_checkpoint
from export.demo_model.figures import (
    Comparison,
    Figures,
    class_figures,
    pairwise_box_iou,
    pairwise_mask_iou,
)
from export.demo_model.scenes.scenes import CLASS_NAMES, HELD_OUT_SEED, Scene, draw_scene
from export.sam3_runtime import quiet, running_on

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from export.demo_model.scenes.scenes import SceneObject

_SIZES_WH = ((640, 360), (640, 480), (854, 480), (1280, 720))
_UNKNOWN_WORDS = ("dog", "bicycle", "wooden chair")
# Average precision uses predictions of any score; predictions below this score do not change it measurably.
_LOWEST_SCORE = 0.02


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to evaluate on.

    Attributes:
        scenes: Number of scenes.
        seed: Seed of the first scene.
        unknown_scenes: Number of scenes that are prompted with unknown words too.
    """

    scenes: int = 200
    seed: int = HELD_OUT_SEED
    unknown_scenes: int = 40


def evaluate(checkpoint: Path, options: EvaluationOptions) -> Figures:
    """Evaluate a checkpoint of the demo model.

    Raises:
        ConfigurationError: The file is not a checkpoint of the demo model.
    """
    comparisons: dict[str, list[Comparison]] = {name: [] for name in CLASS_NAMES}
    unknown: list[Comparison] = []
    with running_on("cpu"), quiet():
        processor = _processor(checkpoint)
        for index in range(options.scenes):
            scene = held_out_scene(options.seed + index)
            state = processor.set_image(scene.image)
            for name in CLASS_NAMES:
                wanted = [found for found in scene.objects if found.class_name == name]
                comparisons[name].append(_compare(processor.set_text_prompt(name, state), wanted))
            for word in _UNKNOWN_WORDS if index < options.unknown_scenes else ():
                unknown.append(_compare(processor.set_text_prompt(word, state), []))
    return _figures(options, comparisons, unknown)


def held_out_scene(seed: int) -> Scene:
    """The scene of a seed in a usual camera size; some sizes are larger than those of training."""
    size_wh = _SIZES_WH[np.random.default_rng((seed, 2)).integers(len(_SIZES_WH))]
    return draw_scene(seed, size_wh)


def _processor(checkpoint: Path) -> Any:
    from sam3.model.sam3_image_processor import Sam3Processor

    model, config = load_checkpoint(checkpoint)
    return Sam3Processor(model, resolution=config.image_side_px, device="cpu", confidence_threshold=_LOWEST_SCORE)


def _compare(state: dict[str, Any], wanted: Sequence[SceneObject]) -> Comparison:
    """Compare the processor's predictions with the objects of the prompt's class."""
    scores, boxes = (state[key].numpy().astype(np.float64) for key in ("scores", "boxes"))
    masks = state["masks"][:, 0].numpy()
    wanted_masks = np.array([found.mask for found in wanted], bool).reshape(-1, *masks.shape[1:])
    wanted_boxes = np.array([found.box_xyxy for found in wanted], np.float64).reshape(-1, 4)
    return Comparison(
        scores=scores,
        mask_ious=pairwise_mask_iou(masks, wanted_masks),
        box_ious=pairwise_box_iou(boxes, wanted_boxes),
        passengers=np.array([found.is_passenger for found in wanted], bool),
    )


def _figures(
    options: EvaluationOptions, comparisons: dict[str, list[Comparison]], unknown: list[Comparison]
) -> Figures:
    every = [comparison for of_class in comparisons.values() for comparison in of_class]
    absent = [comparison for comparison in every if not len(comparison.passengers)]
    passengers = np.concatenate([comparison.passengers for comparison in every])
    found = np.concatenate([comparison.found() for comparison in every])
    return Figures(
        scenes=options.scenes,
        seed=options.seed,
        classes={name: class_figures(of_class) for name, of_class in comparisons.items()},
        passengers=(int(passengers.sum()), int((found & passengers).sum())),
        absent=(len(absent), sum(comparison.is_answered for comparison in absent)),
        unknown=(len(unknown), sum(comparison.is_answered for comparison in unknown)),
    )
