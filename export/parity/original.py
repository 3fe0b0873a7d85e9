"""Runs the original, sam3's own processor, on the inputs of the artifact."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from export.graphs.graphs import image_side
from export.sam3_runtime import quiet, running_on
from job.errors import DeviceError
from job.model.answers import Answer, QueryAnswer
from job.model.reference import QUERY_STEP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from PIL import Image


class OriginalSide:
    """Sam3's processor for a list of prompts."""

    def __init__(self, model: Any, prompts: tuple[str, ...], threshold: float, device: str) -> None:
        with quiet():
            from sam3.model.sam3_image_processor import Sam3Processor
            from torchvision.transforms import v2
        with _device_errors(device):
            self._model = model.to(device)
        self._prompts = prompts
        self._device = device
        self._processor = Sam3Processor(
            model, resolution=image_side(model), device=device, confidence_threshold=threshold
        )
        # ToDtype and Resize, then ToDtype and Normalize.
        steps = self._processor.transform.transforms
        self._resize, self._processor.transform = v2.Compose(steps[:2]), v2.Compose(steps[2:])
        self._to_image = v2.functional.to_image

    def resize(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Resize an upright RGB image as the processor does: to uint8 (S, S, 3)."""
        resized: NDArray[np.uint8] = (
            self._resize(self._to_image(picture).to(self._device)).cpu().permute(1, 2, 0).numpy()
        )
        return resized

    def answer(
        self,
        pixels: NDArray[np.uint8],
        size_hw: tuple[int, int],
        after_image: Callable[[], None] = lambda: None,
    ) -> tuple[Answer, QueryAnswer]:
        """Answer for the resized pixels (S, S, 3) of an image of the given size.

        Args:
            pixels: See above.
            size_hw: Height and width of the image and of the masks.
            after_image: Called when the image is encoded, before the first prompt.

        Returns:
            The instances, and a sample of the mask logits of every query, below the threshold too.
        """
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        with _device_errors(self._device), running_on(self._device), quiet(), self._recorded() as recorded:
            state = self._processor.set_image(image)
            after_image()
            state["original_height"], state["original_width"] = size_hw
            masks: list[NDArray[np.bool_]] = []
            for prompt in self._prompts:
                state = self._processor.set_text_prompt(prompt, state)
                masks.extend(state["masks"][:, 0].cpu().numpy())
        scores = np.stack([output.scores for output in recorded])
        selected = np.argwhere(scores > np.float32(self._processor.confidence_threshold))
        queries = QueryAnswer(scores, np.stack([output.mask_logits for output in recorded]))
        return Answer(scores=scores, selected=selected, masks=tuple(masks)), queries

    @contextmanager
    def _recorded(self) -> Iterator[list[QueryAnswer]]:
        """Record the scores (Q,) and mask logits (Q, y, x) of each prompt: the processor returns no query of a mask."""
        outputs: list[QueryAnswer] = []

        def recording(**arguments: Any) -> dict[str, Any]:
            output: dict[str, Any] = type(self._model).forward_grounding(self._model, **arguments)
            logits = output["pred_masks"][0, :, ::QUERY_STEP, ::QUERY_STEP].float().cpu().numpy()
            outputs.append(QueryAnswer(_scores(output), logits))
            return output

        self._model.forward_grounding = recording
        try:
            yield outputs
        finally:
            del self._model.forward_grounding


@contextmanager
def _device_errors(device: str) -> Iterator[None]:
    """Map errors of a GPU, such as out of memory, to `DeviceError`."""
    try:
        yield
    except RuntimeError as exc:
        if device == "cpu":
            raise
        raise DeviceError(f"--device {device}: torch failed: {exc}") from exc


def _scores(output: dict[str, Any]) -> NDArray[np.float32]:
    """Scores of all queries, computed as the processor does: (Q,)."""
    presence = output["presence_logit_dec"].sigmoid().unsqueeze(1)
    scores: NDArray[np.float32] = (output["pred_logits"].sigmoid() * presence).squeeze(-1)[0].cpu().numpy()
    return scores
