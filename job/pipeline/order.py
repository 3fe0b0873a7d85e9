"""The stages of an image and their order."""

from __future__ import annotations

from collections.abc import Sequence

from job.pipeline.executor import Stage, each
from job.pipeline.stages import Annotator

LAST_STAGES = "postprocess"
"""A stopping worker finishes the images that have reached this stage: their inference is done."""


def stages_of(annotator: Annotator, *, batch_size: int, in_flight: int, cpus: int, io_threads: int) -> Sequence[Stage]:
    """The stages in order.

    Args:
        annotator: Has the functions of the stages.
        batch_size: Images in one call of the model.
        in_flight: Concurrent calls of the model.
        cpus: Threads for each stage that computes outside of the model.
        io_threads: Concurrent reads, and as many writes.
    """
    return (
        Stage(name="read", call=each(annotator.read), threads=io_threads),
        Stage(name="decode", call=each(annotator.decode), threads=cpus),
        Stage(name="infer", call=annotator.infer, threads=in_flight, batch=batch_size),
        Stage(name="postprocess", call=each(annotator.postprocess), threads=cpus),
        Stage(name="encode", call=each(annotator.encode), threads=cpus),
        Stage(name="write", call=each(annotator.write), threads=io_threads),
    )
