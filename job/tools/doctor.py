"""Tries everything that a run needs once: output, exclusive create, input, model, one image. Leaves nothing behind."""

from __future__ import annotations

import secrets
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from job.errors import AnnotateError, ConfigurationError, InputError, ObjectError, UsageError
from job.model.loader import check_gpu, check_session
from job.pipeline.executor import Finished
from job.pipeline.stages import AnnotatorIO
from job.plan.plan import PlannedInput
from job.plan.selection import Selection
from job.run.run import RunTarget
from job.storage.keys import printable
from job.storage.local.probe import probe_file_system
from job.storage.local.store import remove_empty_dirs
from job.storage.object_store import ObjectStore
from job.storage.store import PRIVATE_FOLDER, Store, first_writes
from job.worker.factory import build_annotator, check_answers, open_device
from job.worker.runner import AnnotateRequest

RACED_KEYS, RACERS = 8, 16
_RACE_TIMEOUT_S = 600.0
"""Longest wait for the other racers: a request may be retried for 300 s."""
_FIRST_INPUTS = 20
_SHOWN_KEYS = 5
_CLOCK_TOLERANCE_S = 5.0
_CASE_NAME, _FORM_NAME = "Case", "\N{LATIN SMALL LETTER E WITH ACUTE}"


@dataclass(frozen=True)
class Check:
    """One check and its result.

    Attributes:
        name: What was checked.
        detail: What was observed; empty if the check failed.
        error: Why the check failed, or None.
    """

    name: str
    detail: str
    error: AnnotateError | None = None


def examine(request: AnnotateRequest) -> Iterator[Check]:
    """Run the checks in order; stop after the first that fails.

    The output comes first, because the inputs are selected from listings of input and output.
    """
    inputs: list[PlannedInput] = []
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("output", lambda: _write_and_list(request.target)),
        ("exclusive create", lambda: _race(request.target)),
        ("file system", lambda: "; ".join((_probe_names(request.target), *_missing_features(request.target)))),
        ("clock", lambda: _compare_clocks(request.target)),
        ("input", lambda: _list_inputs(request, inputs)),
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
    """Select the first inputs as a run does.

    Raises:
        UsageError: There is none.
    """
    selection = Selection(RunTarget(request.target, request.spec), request.source, input_list=request.input_list)
    start_s = time.monotonic()
    inputs.extend(islice(selection.inputs(), _FIRST_INPUTS))
    url = request.source.url
    if inputs:
        serial = _serial_listing(request.source)
        return (
            f"{url} is listed: {inputs[0].json} is the first input, found in {time.monotonic() - start_s:.2f} s{serial}"
        )
    keys = [printable(found.key) for found in islice(request.source.list(skip=PRIVATE_FOLDER), _SHOWN_KEYS)]
    if not keys:
        raise UsageError(f"{url} is empty: give the folder or prefix with the JSON and image files")
    raise UsageError(
        f"no JSON file in {url}, but {selection.counts.images_without_json} images without one. The first keys are "
        f"{', '.join(keys)}. Each input is a JSON file and an image of the same name (X.json, X.jpg): give their "
        "folder, or --missing_json create to annotate images without a JSON"
    )


def _write_and_list(target: Store) -> str:
    with _probe_folder(target, "a", "b.c", "b/c") as keys, first_writes(target):
        for key in reversed(keys):
            target.put(key, key.encode())
        seen = [found.key for found in target.list(keys[0].rpartition("/")[0])]
        if seen != keys or any(target.read(key) != key.encode() for key in keys):
            raise ConfigurationError(
                f"{target.url} does not list new objects at once and in order: {keys} were put, {seen} are listed. Use "
                "storage that is strongly consistent and lists in order (local disk, S3, MinIO, GCS, Azure)"
            )
        serial = _serial_listing(target, keys[0].rpartition("/")[0])
    return f"{target.url} can be written, and lists new objects at once and in order{serial}"


def _serial_listing(store: Store, folder: str = "") -> str:
    """What to know about a store whose listings cannot be split; empty for others."""
    if not isinstance(store, ObjectStore) or store.lists_after_any_key(folder) is not False:
        return ""
    return (
        "; it does not list after any key (StartAfter), so pages are listed one after the other: a million keys take "
        "the time of 1,000 pages. Use storage that does, or give --input_list"
    )


def _race(target: Store) -> str:
    """Let many threads create the same keys: not every driver creates atomically."""
    with _probe_folder(target, *(str(number) for number in range(RACED_KEYS))) as keys:
        barrier = threading.Barrier(RACERS)

        def try_all(racer: int) -> list[bool]:
            try:
                return [
                    barrier.wait(_RACE_TIMEOUT_S) >= 0 and target.create(key, f"racer {racer}".encode()) for key in keys
                ]
            except threading.BrokenBarrierError:
                return []  # another racer raises its error
            except BaseException:
                barrier.abort()
                raise

        with ThreadPoolExecutor(RACERS) as pool:
            wins = list(pool.map(try_all, range(RACERS)))
        winners = [[racer for racer in range(RACERS) if wins[racer][number]] for number in range(RACED_KEYS)]
        is_exclusive = all(
            len(racers) == 1 and target.read(key) == f"racer {racers[0]}".encode()
            for key, racers in zip(keys, winners, strict=True)
        )
    if not is_exclusive:
        raise ConfigurationError(
            f"{target.url} lets several threads create the same object (winners of {RACERS} threads: {winners}): use "
            "storage with an atomic exclusive create (local disk, S3 with If-None-Match, GCS, Azure)"
        )
    return f"{RACERS} threads created {RACED_KEYS} keys: one winner each"


def _probe_names(target: Store) -> str:
    """Put one key and look for another that a file system may take for the same."""
    folded = []
    with _probe_folder(target, _CASE_NAME, _FORM_NAME) as keys, first_writes(target):
        case_key, form_key = keys
        for key in keys:
            target.put(key, b"")
        folder = case_key.removesuffix(_CASE_NAME)
        if target.stat(folder + _CASE_NAME.swapcase()) is not None:
            folded.append("case")
        if target.stat(unicodedata.normalize("NFD", form_key)) is not None:
            folded.append("Unicode form")
    if folded:
        return f"names that differ only in {' or '.join(folded)} are one file: of two such inputs the second fails"
    return "names that differ in case or Unicode form are different files"


def _missing_features(target: Store) -> Iterator[str]:
    """What a local file system lacks that others have, and what follows from it."""
    with first_writes(target):
        traits = probe_file_system(target)
    if traits is None:
        return
    if traits.exclusive_create == "rename":
        yield "no hard links: files are created by an exclusive rename"
    if not (traits.syncs_files and traits.syncs_folders):
        what = "folders" if traits.syncs_files else "files"
        yield f"no fsync of {what}: a power cut may lose the last outputs, which `audit` then lists"


@contextmanager
def _probe_folder(target: Store, *names: str) -> Iterator[list[str]]:
    """Keys of these names in a new folder, removed at the end."""
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
    note = "" if abs(ahead_s) <= _CLOCK_TOLERANCE_S else " (this is no error: a run uses the clock of the storage only)"
    return f"the clock of the storage differs by {ahead_s:+.1f} s from the clock of this machine{note}"


def _check_model(request: AnnotateRequest) -> str:
    check_session(request.artifact, request.options.device, request.options.runtime)
    check_gpu(request.options.device, request.options.runtime)
    if request.remote_model is not None:
        request.remote_model.fetch()
    manifest = request.artifact.manifest
    return f"{manifest.model_id}, {manifest.precision}, digest {request.artifact.digest}"


def _annotate_one(request: AnnotateRequest, inputs: list[PlannedInput]) -> str:
    """Annotate the first input that can be used, without storing the result."""
    session = open_device(request.artifact, request.options, len(request.spec.prompts))
    check_answers(request.artifact, session, request.options)
    annotator_io = AnnotatorIO(request.source, RunTarget(request.target, request.spec), lambda: None)
    annotator, _ = build_annotator(annotator_io, session, request.artifact, request.options)
    problems = []
    for planned in inputs:
        start_s = time.monotonic()
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
        return f"{planned.json}: {count} instances in {time.monotonic() - start_s:.2f} s on {provider}"
    raise ConfigurationError(f"none of the first {len(inputs)} inputs can be annotated: {problems[0]}")
