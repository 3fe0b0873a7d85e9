"""Builds a worker from session, budgets, stages and pipeline."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from job.errors import DeviceError, UnusableDeviceError
from job.formats.overlay import OverlayEncoding
from job.model.artifact import Artifact
from job.model.loader import DEFAULT_GPU_BATCH, explained, open_session
from job.model.prompts import text_features_for
from job.model.self_check import self_check
from job.model.session import Session
from job.pipeline.executor import ThreadedPipeline
from job.pipeline.memory import ByteBudget, ResidentBudget
from job.pipeline.order import stages_of
from job.pipeline.stages import Annotator, AnnotatorIO, Budgets, Overlays
from job.plan.plan import first_keys
from job.postprocess.masks import full_mask
from job.run.end_watch import EndWatch
from job.run.options import WorkerOptions
from job.run.run import Run
from job.storage.store import Store
from job.system.resources import available_memory, usable_cpus
from job.system.threads import call_aside
from job.worker.batch_size import open_with_fitting_batch, probe_of
from job.worker.memory_need import images_in_flight, memory_need
from job.worker.worker import Provenance, Worker

logger = logging.getLogger(__name__)

DEFAULT_MEMORY_FRACTION = 0.6
_SMALLEST_IMAGE_SHARE = 0.25
_TRANSIENT_SHARE = 0.5
_IO_THREADS = {"cpu": 4, "cuda": 4}
_IO_THREADS_REMOTE = {"cpu": 6, "cuda": 16}
"""Readers, and as many writers. Network requests mostly wait. A CPU needs few images a second, and another pool may
repeat every image that is in flight."""
_MASK_LOGITS_BYTES = 16 << 20
"""Allowance for the mask logits and outputs of one image."""
_PIXELS_PER_LOGITS_BYTE = 3
"""Of the model's input: float32 logits on a grid of 2/7 of its side (288 of 1008) take a third of a byte a pixel."""
_DEVICE_PAUSE_S = 10.0


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device.

    Attributes:
        artifact: Its files.
        session: Runs it.
        check_digest: Digest of the self-check that it passed, or empty.
    """

    artifact: Artifact
    session: Session
    check_digest: str = ""


def build_worker(run: Run, source: Store, artifact: Artifact, options: WorkerOptions) -> Worker:
    """Load the model and start the pipeline's threads.

    Raises:
        ConfigurationError: The artifact or the provider cannot be used here.
        UnusableDeviceError: The driver or the GPU of this node can never run the model.
        DeviceError: The device does not respond.
        SelfCheckError: This machine does not reproduce the model's reference answers.
    """
    in_flight = images_in_flight(artifact, options)
    session = open_device(artifact, options, len(run.spec.prompts))
    check_digest = check_answers(artifact, session, options)
    return assemble_worker(run, source, LoadedModel(artifact, session, check_digest), options, in_flight)


def assemble_worker(run: Run, source: Store, model: LoadedModel, options: WorkerOptions, in_flight: int) -> Worker:
    """Start the pipeline's threads around a loaded model.

    Args:
        run: The run.
        source: The input.
        model: The model.
        options: How this process works.
        in_flight: Concurrent calls of the model.
    """
    artifact, session = model.artifact, model.session
    info, cpus = session.info, usable_cpus()
    annotator, budgets = build_annotator(
        AnnotatorIO(source, run, EndWatch(run, options.clock).check), session, artifact, options, in_flight
    )
    annotator.overlays = _overlays(run, options)
    is_remote = "://" in f"{source.url}{run.store.url}"
    io_threads = (_IO_THREADS_REMOTE if is_remote else _IO_THREADS)[options.device]
    stages = stages_of(annotator, batch_size=info.batch_size, in_flight=in_flight, cpus=cpus, io_threads=io_threads)
    capacity = 2 * (info.batch_size * in_flight) + cpus + 2 * io_threads
    pipeline = ThreadedPipeline(
        stages, capacity=capacity, item_timeout_s=options.image_timeout_s, on_progress=options.watchdog.touch
    )
    provenance = Provenance(
        worker=options.process_id,
        artifact=artifact.digest,
        precision=artifact.manifest.precision,
        provider=f"{info.provider}/{info.threads}",
        runtime=info.runtime,
        self_check=model.check_digest,
    )
    return Worker(run, pipeline, budgets.resident, options, provenance)


def build_annotator(
    io: AnnotatorIO, session: Session, artifact: Artifact, options: WorkerOptions, in_flight: int = 1
) -> tuple[Annotator, Budgets]:
    """Build the functions of the stages and their memory budgets."""
    budget = options.memory_budget or _default_budget(artifact, options, in_flight)
    transient = int(budget * _TRANSIENT_SHARE)
    side, spec = session.info.image_side, io.run.spec
    image_bytes = side * side * 3 + _MASK_LOGITS_BYTES
    if spec.candidates_threshold is not None:
        image_bytes += spec.max_candidates * (side * side // _PIXELS_PER_LOGITS_BYTE)
    budgets = Budgets(ResidentBudget(budget - transient, image_bytes), ByteBudget(transient))
    annotator = Annotator(io, session, text_features_for(artifact, session, io.run.spec.prompts), budgets)
    return annotator, budgets


def _overlays(run: Run, options: WorkerOptions) -> Overlays | None:
    if options.visualize is None:
        return None
    keys = None if options.visualize == "all" else first_keys(run, options.visualize)
    return Overlays(OverlayEncoding(options.overlay_format, options.overlay_side), keys)


def _default_budget(artifact: Artifact, options: WorkerOptions, in_flight: int) -> int:
    """Bytes for images, once the model is loaded: a fraction of what its activations leave."""
    available = available_memory()
    activations = in_flight * memory_need(artifact.manifest, options.device, options.runtime).activations
    return int(max(available - activations, available * _SMALLEST_IMAGE_SHARE) * DEFAULT_MEMORY_FRACTION)


def open_device(artifact: Artifact, options: WorkerOptions, prompts: int) -> Session:
    """Load the model; retry for `device_retry_s` while the device does not respond.

    Raises:
        UnusableDeviceError: The driver or the GPU of this node can never run the model; this is not retried.
        DeviceError: The device does not respond, or has too little memory for one image.
    """
    logger.info("Loading SAM3 model...")
    if options.device == "cuda" and artifact.manifest.precision == "fp32":
        logger.warning(
            "The model is fp32: on a GPU an fp16 export of the same checkpoint takes half the memory and is estimated "
            "to be 3 to 8 times as fast (sam3-annotate export --precision fp16)"
        )
    deadline_s = options.clock.monotonic_s() + options.device_retry_s
    while True:
        options.watchdog.touch()
        try:
            session = call_aside(lambda: _open_session(artifact, options, prompts))
        except UnusableDeviceError:
            raise
        except DeviceError as exc:
            left_s = deadline_s - options.clock.monotonic_s()
            if left_s <= 0:
                raise
            logger.warning("%s. Retrying for %.0f s", exc, left_s)
            options.clock.sleep(min(_DEVICE_PAUSE_S, left_s))
        else:
            break
    options.watchdog.touch()
    logger.info("SAM3 model loaded successfully")
    logger.info("Model %s: %s, %s", artifact.manifest.model_id, session.info.runtime, session.info.provider)
    return session


def check_answers(artifact: Artifact, session: Session, options: WorkerOptions) -> str:
    """Run the self-check; returns its digest, or an empty string when it is off.

    Raises:
        SelfCheckError: This machine does not reproduce the model's reference answers.
    """
    touch = options.watchdog.touch
    check = call_aside(
        lambda: self_check(
            artifact, session, full_mask, mode=options.self_check, cache=options.model_cache, on_progress=touch
        )
    )
    touch()
    return "" if check is None else check.digest


def _open_session(artifact: Artifact, options: WorkerOptions, prompts: int) -> Session:
    def open_with(batch_size: int | None) -> Session:
        return open_session(
            artifact,
            device=options.device,
            batch_size=batch_size,
            threads=options.threads,
            runtime=options.runtime,
            cache=options.model_cache,
        )

    if options.device != "cuda":
        return open_with(options.batch_size)
    # The first kernels run in the probe: it shows a GPU without kernels too.
    with explained(options.device, options.runtime):
        return open_with_fitting_batch(open_with, options.batch_size or DEFAULT_GPU_BATCH, probe_of(artifact, prompts))
