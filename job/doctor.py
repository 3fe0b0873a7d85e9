"""Everything a run needs, tried once: storage, its promises, the model, one image. Leaves nothing behind."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from job.annotating import Request
from job.building import build_annotator, open_device
from job.errors import AnnotateError, ConfigurationError, InputError, ObjectError
from job.flow import EarlyEnd
from job.plan import PlannedInput, Selection
from job.run import Run
from job.sessions import check_session
from job.stages import Places
from job.store import PRIVATE_FOLDER, Store, first_writes

RACED_KEYS, RACERS = 8, 16
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


def examine(request: Request) -> Iterator[Check]:
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


def _list_inputs(request: Request, inputs: list[PlannedInput]) -> str:
    nobody = Run(request.target, "", request.spec)
    started = time.monotonic()
    for found in islice(request.source.walk(skip=PRIVATE_FOLDER), 1):
        first = found.key
        break
    else:
        return f"nothing in {request.source.url}"
    inputs.extend(islice(Selection(nobody, request.source, input_list=request.input_list).inputs(), _FIRST_INPUTS))
    return f"{request.source.url} is listed: {first} comes first, after {time.monotonic() - started:.2f} s"


def _write_and_list(target: Store) -> str:
    folder = f"{PRIVATE_FOLDER}/tmp/doctor-{secrets.token_hex(4)}"
    names = [f"{folder}/{name}" for name in ("a", "b/c", "b.c")]
    try:
        with first_writes(target):
            for name in names:
                target.put(name, name.encode())
        seen = [found.key for found in target.walk(folder)]
        if seen != sorted(names) or any(target.read(name) != name.encode() for name in names):
            raise ConfigurationError(f"{target.url} does not show at once, in order, what was put: it lists {seen}")
    finally:
        _remove(target, names)
    return f"{target.url} is written, and lists at once and in order"


def _race(target: Store) -> str:
    """Many threads try for the same keys: drivers differ in how exclusive an exclusive create is."""
    folder = f"{PRIVATE_FOLDER}/tmp/doctor-{secrets.token_hex(4)}"
    barrier = threading.Barrier(RACERS)

    def try_all(racer: int) -> list[bool]:
        wins = []
        for number in range(RACED_KEYS):
            barrier.wait(timeout=60)
            wins.append(target.create(f"{folder}/{number}", f"{racer}".encode()))
        return wins

    try:
        with ThreadPoolExecutor(RACERS) as pool:
            wins = list(pool.map(try_all, range(RACERS)))
    finally:
        _remove(target, [f"{folder}/{number}" for number in range(RACED_KEYS)])
    winners = [sum(column) for column in zip(*wins, strict=True)]
    if winners != [1] * RACED_KEYS:
        raise ConfigurationError(
            f"{target.url} lets several create one object ({winners} winners of {RACERS}): a run needs storage whose "
            "exclusive create is exclusive (local disk, S3 with If-None-Match, GCS, Azure)"
        )
    return f"{RACERS} threads raced for {RACED_KEYS} keys: one winner each"


def _remove(target: Store, keys: list[str]) -> None:
    for key in keys:
        target.delete(key)


def _compare_clocks(target: Store) -> str:
    ahead_s = target.now_s() - time.time()
    word = "" if abs(ahead_s) <= _CLOCK_TOLERANCE_S else " (only told: nothing depends on it)"
    return f"the storage's clock is {ahead_s:+.1f} s from this machine's{word}"


def _check_model(request: Request) -> str:
    check_session(request.artifact, request.options.device, request.options.runtime)
    manifest = request.artifact.manifest
    return f"{manifest.model_id}, {manifest.precision}, digest {request.artifact.digest}"


def _annotate_one(request: Request, inputs: list[PlannedInput]) -> str:
    """In memory: nothing is stored."""
    if not inputs:
        return "no input left to try"
    session = open_device(request.artifact, request.options)
    places = Places(request.source, Run(request.target, "", request.spec), lambda: None)
    annotator, _ = build_annotator(places, session, request.artifact, request.options)
    problems = []
    for planned in inputs:
        begun = time.monotonic()
        try:
            value: Any = annotator.read(planned)
            for stage in (annotator.decode, lambda item: annotator.infer([item])[0], annotator.postprocess):
                if isinstance(value, EarlyEnd | InputError):
                    break
                value = stage(value)
        except (InputError, ObjectError) as exc:
            problems.append(f"{planned.json}: {exc}")
            continue
        if isinstance(value, EarlyEnd | InputError):
            continue
        count, provider = len(value.annotation.instances), session.info.provider
        return f"{planned.json}: {count} instances in {time.monotonic() - begun:.2f} s on {provider}"
    raise ConfigurationError(f"none of the first {len(inputs)} inputs can be annotated, such as {problems[:1]}")
