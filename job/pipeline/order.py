"""One image, from files to files. This file says which stages there are, and their order, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from job.pipeline.executor import Stage, each
from job.pipeline.stages import Annotator

LAST_STAGES = "postprocess"
"""A worker that is told to stop finishes what has come this far: the model, the costly part, is behind it."""


def stages_of(annotator: Annotator, *, batch_size: int, in_flight: int, cpus: int, io_threads: int) -> Sequence[Stage]:
    """The stages in order.

    Args:
        annotator: What does the work.
        batch_size: Images in one call of the model.
        in_flight: Calls of the model at once.
        cpus: Processors for what Python and its libraries compute.
        io_threads: Reads, and writes, at once.
    """
    return (
        Stage(name="read", call=each(annotator.read), threads=io_threads),
        Stage(name="decode", call=each(annotator.decode), threads=cpus),
        Stage(name="infer", call=annotator.infer, threads=in_flight, batch=batch_size),
        Stage(name="postprocess", call=each(annotator.postprocess), threads=cpus),
        Stage(name="encode", call=each(annotator.encode), threads=cpus),
        Stage(name="write", call=each(annotator.write), threads=io_threads),
    )
