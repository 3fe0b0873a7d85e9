"""The pipeline after an error of a stage."""

from __future__ import annotations

import time
from typing import Any

import pytest

from job.errors import StorageError
from job.pipeline.executor import Stage, ThreadedPipeline, each


def full(value: Any) -> Any:
    raise StorageError("no space left")


@pytest.mark.parametrize("items", [1, 20], ids=["one item", "more items than threads"])
def test_the_rest_is_not_waited_for_when_every_thread_of_a_stage_has_failed(items: int) -> None:
    """A worker whose disk is full leaves at once, not after the grace for images in flight."""
    stages = (Stage(name="encode", call=each(str), threads=2), Stage(name="write", call=each(full), threads=4))
    pipeline = ThreadedPipeline(stages, capacity=100, item_timeout_s=60)
    for number in range(items):
        pipeline.submit(str(number), number)
    with pytest.raises(StorageError):
        list(iter(pipeline.next_result, "never"))
    begun_s = time.monotonic()
    assert pipeline.finish("encode", grace_s=30) == []
    assert time.monotonic() - begun_s < 10
    pipeline.close()


def test_what_passes_is_finished_after_an_error() -> None:
    def write(value: int) -> int:
        if value == 0:
            raise StorageError("this one cannot be written")
        time.sleep(0.2)
        return value

    pipeline = ThreadedPipeline((Stage(name="write", call=each(write), threads=2),), capacity=9, item_timeout_s=60)
    for number in range(4):
        pipeline.submit(str(number), number)
    with pytest.raises(StorageError):
        list(iter(pipeline.next_result, "never"))
    assert {item.value for item in pipeline.finish("write", grace_s=30)} == {1, 2, 3}
    pipeline.close()
