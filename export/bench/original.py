"""The same work through eager sam3: one picture at a time, as its own processor does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from export.bench.random_weights import random_original
from export.checkpoint import load_original
from export.graphs.graphs import image_side
from export.locations import local_checkpoint
from export.parity.original import OriginalSide
from export.sam3_runtime import quiet, running_on
from job.formats.image_resize import resize_to_square
from job.model.torch_session import check_device
from job.system.resources import usable_cpus
from job.tools.bench.figures import OriginalFigures
from job.tools.bench.model_stages import median_ms
from job.tools.bench.pictures import INSTANCES, draw_picture
from job.worker.batch_size import threshold_for

if TYPE_CHECKING:
    from export.checkpoint import Original
    from job.tools.bench.bench import BenchRequest

RANDOM = "random"


def measure_checkpoint(checkpoint: str, request: BenchRequest) -> OriginalFigures:
    """Measure the original of a checkpoint, `demo` and `random` included, on the device of the request.

    Raises:
        UsageError: There is no such checkpoint.
        ConfigurationError: It cannot be loaded.
        DeviceError: The device failed.
    """
    if checkpoint == RANDOM:
        return measure_original(random_original(), request)
    with local_checkpoint(checkpoint) as path:
        return measure_original(load_original(path), request)


def measure_original(original: Original, request: BenchRequest) -> OriginalFigures:
    """Measure a loaded original in float32.

    Raises:
        ConfigurationError: torch was built without CUDA.
        DeviceError: The device failed.
    """
    device = request.options.device
    check_device(device)
    threads = request.options.threads or usable_cpus()
    torch.set_num_threads(threads)
    picture = draw_picture(request.picture_wh)
    pixels = resize_to_square(picture, image_side(original.model))
    side = OriginalSide(original.model, request.prompts, 1.0, device)
    answer, _ = side.answer(pixels, pixels.shape[:2])
    threshold = threshold_for(answer.scores, INSTANCES)
    with running_on(device), quiet(), torch.inference_mode():
        from sam3.model.sam3_image_processor import Sam3Processor

        processor = Sam3Processor(
            original.model, resolution=image_side(original.model), device=device, confidence_threshold=threshold
        )
        state: dict[str, Any] = processor.set_image(picture)

        def set_image() -> None:
            processor.set_image(picture)
            _wait(device)

        def set_prompts() -> None:
            for prompt in request.prompts:
                np.asarray(processor.set_text_prompt(prompt, state)["scores"].cpu())
            _wait(device)

        encoder_ms, grounding_ms = median_ms(set_image), median_ms(set_prompts)
    return OriginalFigures(
        library=f"sam3 {original.sam3_version}, torch {torch.__version__}",
        device=device,
        threads=threads if device == "cpu" else 0,
        encoder_ms=round(encoder_ms, 3),
        grounding_ms=round(grounding_ms, 3),
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
