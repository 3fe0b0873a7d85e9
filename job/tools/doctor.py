"""Everything a run needs, tried once: storage, its promises, the model, one image. Leaves nothing behind."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from job.errors import AnnotateError, ConfigurationError, InputError, ObjectError
from job.model.loader import check_session
from job.pipeline.executor import Finished
from job.pipeline.stages import AnnotatorIO
from job.plan.plan import PlannedInput
from job.plan.selection import Selection
from job.run.run import RunTarget
from job.storage.local import remove_empty_dirs
from job.storage.store import PRIVATE_FOLDER, Store, first_writes
from job.worker.factory import build_annotator, open_device
from job.worker.runner import AnnotateRequest

RACED_KEYS, RACERS = 8, 16
_RACE_S = 600.0
"""Longest wait for the others: a request may be tried again for 300 s."""
_FIRST_INPUTS = 20
_CLOCK_TOLERANCE_S = 5.0


@dataclass(frozen=True)
class Check:
    """What was looked at and how it is.

    Attributes:
        name: What.
        said: What was seen.
        error: Why it is not good, or None.
    """

    name: str
    said: str
    error: AnnotateError | None = None


def examine(request: AnnotateRequest) -> Iterator[Check]:
    """Check one thing after the other; ends at the first that is not good."""
    inputs: list[PlannedInput] = []
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("input", lambda: _list_inputs(request, inputs)),
        ("output", lambda: _write_and_list(request.target)),
        ("exclusive create", lambda: _race(request.target)),
        ("clock", lambda: _compare_clocks(request.target)),
        ("model", lambda: _check_model(request)),
        ("one image", lambda: _annotate_one(request, inputs)),
    )
    for name, step in steps:
        try:
            yield Check(name, step())
        except AnnotateError as exc:
            yield Check(name, "", exc)
            return


def _list_inputs(request: AnnotateRequest, inputs: list[PlannedInput]) -> str:
    selection = Selection(RunTarget(request.target, request.spec), request.source, input_list=request.input_list)
    started = time.monotonic()
    for found in islice(request.source.list(skip=PRIVATE_FOLDER), 1):
        first = found.key
        break
    else:
        return f"nothing in {request.source.url}"
    inputs.extend(islice(selection.inputs(), _FIRST_INPUTS))
    return f"{request.source.url} is listed: {first} comes first, after {time.monotonic() - started:.2f} s"


def _write_and_list(target: Store) -> str:
    with _probe_folder(target, "a", "b.c", "b/c") as keys, first_writes(target):
        for key in reversed(keys):
            target.put(key, key.encode())
        seen = [found.key for found in target.list(keys[0].rpartition("/")[0])]
        if seen != keys or any(target.read(key) != key.encode() for key in keys):
            raise ConfigurationError(
                f"{target.url} does not show at once, in order, what was put ({keys}): it lists {seen}. A run needs "
                "storage that is strongly consistent and lists in order (local disk, S3, MinIO, GCS, Azure)"
            )
    return f"{target.url} is written, and lists at once and in order"


def _race(target: Store) -> str:
    """Many threads try for the same keys: drivers differ in how exclusive an exclusive create is."""
    with _probe_folder(target, *(str(number) for number in range(RACED_KEYS))) as keys:
        barrier = threading.Barrier(RACERS)

        def try_all(racer: int) -> list[bool]:
            try:
                return [barrier.wait(_RACE_S) >= 0 and target.create(key, f"racer {racer}".encode()) for key in keys]
            except threading.BrokenBarrierError:
                return []  # another one has met an error, which is raised there
            except BaseException:
                barrier.abort()
                raise

        with ThreadPoolExecutor(RACERS) as pool:
            wins = list(pool.map(try_all, range(RACERS)))
        winners = [[racer for racer in range(RACERS) if wins[racer][number]] for number in range(RACED_KEYS)]
        is_fair = all(
            len(racers) == 1 and target.read(key) == f"racer {racers[0]}".encode()
            for key, racers in zip(keys, winners, strict=True)
        )
    if not is_fair:
        raise ConfigurationError(
            f"{target.url} lets several create one object (winners of {RACERS} threads: {winners}): a run needs "
            "storage whose exclusive create is exclusive (local disk, S3 with If-None-Match, GCS, Azure)"
        )
    return f"{RACERS} threads raced for {RACED_KEYS} keys: one winner each"


@contextmanager
def _probe_folder(target: Store, *names: str) -> Iterator[list[str]]:
    """Keys of these names in a folder of their own, removed at the end."""
    folder = f"{PRIVATE_FOLDER}/tmp/doctor-{secrets.token_hex(4)}"
    keys = [f"{folder}/{name}" for name in names]
    try:
        yield keys
    finally:
        for key in keys:
            target.delete(key)
        remove_empty_dirs(target, *(key.rpartition("/")[0] for key in reversed(keys)), f"{PRIVATE_FOLDER}/tmp")


def _compare_clocks(target: Store) -> str:
    ahead_s = target.now_s() - time.time()
    word = "" if abs(ahead_s) <= _CLOCK_TOLERANCE_S else " (only told: nothing depends on it)"
    return f"the storage's clock is {ahead_s:+.1f} s from this machine's{word}"


def _check_model(request: AnnotateRequest) -> str:
    check_session(request.artifact, request.options.device, request.options.runtime)
    if request.remote_model is not None:
        request.remote_model.fetch()
    manifest = request.artifact.manifest
    return f"{manifest.model_id}, {manifest.precision}, digest {request.artifact.digest}"


def _annotate_one(request: AnnotateRequest, inputs: list[PlannedInput]) -> str:
    """In memory: nothing is stored."""
    if not inputs:
        return "no input left to try"
    session = open_device(request.artifact, request.options)
    io = AnnotatorIO(request.source, RunTarget(request.target, request.spec), lambda: None)
    annotator, _ = build_annotator(io, session, request.artifact, request.options)
    problems = []
    for planned in inputs:
        begun = time.monotonic()
        try:
            value: Any = annotator.read(planned)
            for stage in (annotator.decode, lambda item: annotator.infer([item])[0], annotator.postprocess):
                if isinstance(value, Finished | InputError):
                    break
                value = stage(value)
        except (InputError, ObjectError) as exc:
            value = exc
        if isinstance(value, Finished | AnnotateError):
            problems.append(f"{planned.json}: {value}")
            continue
        count, provider = len(value.annotation.instances), session.info.provider
        return f"{planned.json}: {count} instances in {time.monotonic() - begun:.2f} s on {provider}"
    raise ConfigurationError(f"none of the first {len(inputs)} inputs can be annotated, such as {problems[0]}")
