"""The self-check of a worker: a session must reproduce the reference answers that are stored with its artifact.

A processor or GPU may compute wrong labels without an error: saturating integer kernels, scores that collapse in
fp16, NaN, another execution provider. The check runs the reference images through the session of the run, so with its
batch size, provider, precision and threads, before the first image.

    <model cache>/self_checks/<digest of the key>.json      a check that passed, a `SelfCheck`
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from job.errors import SelfCheckError
from job.model.answers import ArtifactSide, QueryAnswer
from job.model.artifact import DEMO_MODEL_ID, ParityFigures, Precision
from job.model.cache import default_cache
from job.model.comparison import SCORE_THRESHOLD, Tally, describe
from job.model.processor import instruction_set, processor_name
from job.model.reference import QUERY_STEP, reference_of
from job.storage.json_errors import JSON_ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from job.model.answers import ToMask
    from job.model.artifact import Artifact, Tolerance
    from job.model.session import Session
    from job.system.watchdog import OnProgress

SelfCheckMode = Literal["always", "cached", "off"]

logger = logging.getLogger(__name__)

_FOLDER = "self_checks"


class CheckKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the answers of a CPU depend on.

    Attributes:
        artifact: Digest of the artifact's manifest.
        precision: Of the artifact.
        provider: Execution provider.
        runtime: Name and version of the library.
        instruction_set: See `job.model.processor.instruction_set`.
        threads: Threads inside one operator; 0 on an accelerator.
        batch_size: Images in one call.
    """

    artifact: str
    precision: Precision
    provider: str
    runtime: str
    instruction_set: str
    threads: int
    batch_size: int


class SelfCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check that passed.

    Attributes:
        key: What was checked.
        figures: How the answers agree with the reference.
    """

    key: CheckKey
    figures: ParityFigures

    @property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 of this check as JSON; goes into each row of the journal."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


_RECORD = msgspec.json.Decoder(SelfCheck)


def self_check(
    artifact: Artifact,
    session: Session,
    to_mask: ToMask,
    *,
    mode: SelfCheckMode = "cached",
    cache: Path | None = None,
    on_progress: OnProgress = lambda: None,
) -> SelfCheck | None:
    """Compare the answers of a session with the reference answers of its artifact.

    Args:
        artifact: The model.
        session: The session of the run.
        to_mask: Turns mask logits into a mask, as the worker does.
        mode: `always`: all reference images. `off`: none. `cached`: as `always` on an accelerator and for the demo
            model; else one image, once for each `CheckKey`, remembered in `cache`.
        cache: The model cache, or None for the default; a cache that cannot be read or written is no error.
        on_progress: Called after each call of the model.

    Returns:
        The check, or None when `mode` is `off`.

    Raises:
        SelfCheckError: The answers differ by more than the manifest's tolerance.
        ArtifactError: The artifact has no reference, or it cannot be read.
        DeviceError: The device failed.
    """
    if mode == "off":
        return None
    key = _key_of(artifact, session)
    is_cached = mode == "cached" and key.threads > 0 and artifact.manifest.model_id != DEMO_MODEL_ID
    path = _record_path(cache, key) if is_cached else None
    remembered = _remembered(path, key)
    if remembered is not None:
        logger.info("Self-check %s passed before: %s", remembered.digest, describe(remembered.figures))
        return remembered
    images = [reference_of(artifact).richest] if is_cached else None
    figures = compare_with_reference(
        artifact, session, to_mask, machine=processor_name(), images=images, on_progress=on_progress
    )
    if not figures.passed:
        raise SelfCheckError(
            f"this machine does not reproduce the reference answers of model {artifact.folder}: {describe(figures)}; "
            f"allowed is {figures.tolerance}. No image was annotated. Run on another kind of machine, "
            "or use an artifact of another precision"
        )
    check = SelfCheck(key=key, figures=figures)
    _remember(path, check)
    logger.info("Self-check %s passed: %s", check.digest, describe(figures))
    return check


def compare_with_reference(
    artifact: Artifact,
    session: Session,
    to_mask: ToMask,
    *,
    machine: str,
    images: Sequence[int] | None = None,
    on_progress: OnProgress = lambda: None,
) -> ParityFigures:
    """Compare the answers of this machine with the original's answers from when the artifact was made.

    Args:
        artifact: The model.
        session: Runs it. Its whole batch is filled with reference images, so that each row of it is compared.
        to_mask: Turns mask logits into a mask, as the worker does.
        machine: Processor or GPU, for the figures.
        images: Numbers of the reference images, or None for all.
        on_progress: Called after each call of the model.

    Raises:
        ArtifactError: The artifact has no reference, or it cannot be read.
        DeviceError: The device failed.
    """
    reference = reference_of(artifact)
    ours = ArtifactSide(artifact, session, SCORE_THRESHOLD, to_mask)
    tally = Tally(artifact.manifest.prompts, SCORE_THRESHOLD)
    rows = np.arange(len(reference.pixels)) if images is None else np.array(images)
    rows = np.resize(rows, max(len(rows), ours.batch_size))
    for start in range(0, len(rows), ours.batch_size):
        batch = rows[start : start + ours.batch_size].tolist()
        features = ours.encode(reference.pixels[batch])
        on_progress()
        for number, answer in zip(batch, ours.answers(features, reference.grid_hw), strict=True):
            tally.add(reference.answers[number], answer)
        on_progress()
        if reference.queries:
            for number, queries in zip(batch, ours.query_answers(features), strict=True):
                theirs = reference.queries[number]
                height, width = theirs.mask_logits.shape[2:]
                logits = queries.sampled(QUERY_STEP).mask_logits[..., :height, :width]
                tally.add_queries(theirs, QueryAnswer(queries.scores, logits))
    precision, provider = artifact.manifest.precision, session.info.provider
    tolerance = _tolerance_of(artifact)
    return tally.figures(precision, "same_input", provider=provider, machine=machine, tolerance=tolerance)


def _tolerance_of(artifact: Artifact) -> Tolerance | None:
    """The tolerance that the export had to meet on the same pixels; a draft has none yet."""
    stored = (figures.tolerance for figures in artifact.manifest.parity if figures.comparison == "same_input")
    return next(stored, None)


def _key_of(artifact: Artifact, session: Session) -> CheckKey:
    info = session.info
    return CheckKey(
        artifact=artifact.digest,
        precision=artifact.manifest.precision,
        provider=info.provider,
        runtime=info.runtime,
        instruction_set=instruction_set(),
        threads=info.threads,
        batch_size=info.batch_size,
    )


def _record_path(cache: Path | None, key: CheckKey) -> Path | None:
    """Path of the record of a check, or None when this user has no home folder."""
    name = f"{hashlib.sha256(msgspec.json.encode(key)).hexdigest()}.json"
    try:
        return (cache or default_cache()) / _FOLDER / name
    except RuntimeError:
        return None


def _remembered(path: Path | None, key: CheckKey) -> SelfCheck | None:
    """The record of a check that passed, or None when there is none that can be read."""
    if path is None:
        return None
    with suppress(OSError, *JSON_ERRORS):
        check = _RECORD.decode(path.read_bytes())
        if check.key == key and check.figures.passed:
            return check
    return None


def _remember(path: Path | None, check: SelfCheck) -> None:
    if path is None:
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(check))
        os.replace(temporary, path)
    except OSError as exc:
        logger.info("The self-check cannot be remembered in %s: %s", path.parent, exc.strerror)
        with suppress(OSError):
            temporary.unlink()
