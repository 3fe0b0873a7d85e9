"""Core time of the host, by stage, in one thread and without the model."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from job.formats.image_decode import decode_upright
from job.formats.image_resize import resize_to_square
from job.formats.rle import encode_rle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from job.pipeline.stages import Annotator
    from job.plan.plan import PlannedInput
    from job.postprocess.annotate import Annotation

_WARM_UP = 2


@dataclass
class _Timer:
    """Core time by stage, a value an image."""

    ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def call(self, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        begun_s = time.process_time()
        value = function(*arguments)
        self.ms[stage].append(1e3 * (time.process_time() - begun_s))
        return value


def host_stages(annotator: Annotator, inputs: Iterable[PlannedInput], image_side: int) -> dict[str, float]:
    """Median milliseconds of core time an image: fetch, decode, resize, postprocess, encode, rle, write.

    The resize is a part of the stage `decode`, and COCO's run lengths (`rle`) of `encode`; each is measured by
    itself and subtracted there.

    Args:
        annotator: Its session answers at once.
        inputs: At least three.
        image_side: Side of the model's square, in pixels.
    """
    timer = _Timer()
    for planned in inputs:
        loaded = timer.call("fetch", annotator.read, planned)
        raster = np.asarray(decode_upright(loaded.image.data))
        timer.call("resize", resize_to_square, raster, image_side)
        decoded = timer.call("decode", annotator.decode, loaded)
        (inferred,) = annotator.infer([decoded])
        processed = timer.call("postprocess", annotator.postprocess, inferred)
        annotation = processed.annotation
        for stage, function in (("encode", annotator.encode), ("write", annotator.write)):
            processed = timer.call(stage, function, processed)
        timer.call("rle", _encode_instances, annotation)
    medians = {stage: statistics.median(taken[_WARM_UP:]) for stage, taken in timer.ms.items()}
    for stage, part in (("decode", "resize"), ("encode", "rle")):
        medians[stage] = max(0.0, medians[stage] - medians[part])
    order = ("fetch", "decode", "resize", "postprocess", "rle", "encode", "write")
    return {stage: medians[stage] for stage in order}


def _encode_instances(annotation: Annotation) -> list[str]:
    return [encode_rle(instance.mask, annotation.size_hw) for instance in annotation.instances]
