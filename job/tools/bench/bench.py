"""The order of a `bench`: pictures, host stages, then for each batch size the model's stages and images/s."""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from job.errors import DeviceMemoryError
from job.formats.image_resize import resize_to_square
from job.model.loader import check_session
from job.model.processor import instruction_names, processor_name
from job.model.prompts import text_features_for
from job.pipeline.stages import AnnotatorIO
from job.plan.selection import Selection
from job.run.options import WorkerOptions
from job.system.cuda_driver import cuda_driver, device_memory_used
from job.system.resources import memory_limit, peak_resident_bytes, return_freed_memory, usable_cpus
from job.tools.bench.end_to_end import images_per_s, open_folders, run_target, write_inputs
from job.tools.bench.figures import BatchFigures, BenchReport, Machine, Setting
from job.tools.bench.host_stages import host_stages
from job.tools.bench.model_stages import model_stages
from job.tools.bench.pictures import INSTANCES, draw_picture
from job.tools.bench.sessions import FixedAnswers, fixed_selection
from job.worker.factory import LoadedModel, build_annotator, open_device
from job.worker.memory_need import check_memory, images_in_flight

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from job.model.artifact import Artifact
    from job.model.session import Session

logger = logging.getLogger(__name__)

GPU_BATCHES = (1, 2, 4, 8, 16)
HOST_PICTURES = 12
_TARGET_S = 10.0
"""Each measurement of images/s lasts about so long."""
_MIN_IMAGES, _MAX_IMAGES = 4, 600


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """The parameters of a `bench`.

    Attributes:
        artifact: The model.
        options: Device, runtime and threads.
        prompts: The prompts.
        picture_wh: Width and height of the pictures, in pixels.
        batch_sizes: Images in one call; a CPU takes one.
        images: Images of each measurement of images/s, None for about 10 s.
    """

    artifact: Artifact
    options: WorkerOptions
    prompts: tuple[str, ...]
    picture_wh: tuple[int, int]
    batch_sizes: tuple[int, ...]
    images: int | None = None


def run_bench(request: BenchRequest) -> BenchReport:
    """Measure a model on this machine.

    Raises:
        ConfigurationError: The installation or the memory limit does not allow this model.
        DeviceError: The device failed, or not even the smallest batch fits.
        WorkerError: A synthetic picture failed.
    """
    return_freed_memory()
    check_session(request.artifact, request.options.device, request.options.runtime)
    check_memory(request.artifact, request.options)
    with TemporaryDirectory(prefix="sam3-bench-") as name:
        bench = _Bench(request, Path(name))
        for batch_size in sorted(set(request.batch_sizes)):
            if not bench.measure(batch_size):
                break
        return bench.report()


class _Bench:
    """The state of a measurement: pictures in a folder, and figures so far."""

    def __init__(self, request: BenchRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        picture = draw_picture(request.picture_wh)
        self._pixels: NDArray[np.uint8] = resize_to_square(picture, request.artifact.manifest.image_side)[None]
        self._figures: list[BatchFigures] = []
        self._host_ms: dict[str, float] = {}
        self._setting: Setting | None = None
        self._error = ""

    def measure(self, batch_size: int) -> bool:
        """Measure one batch size; returns whether it fits."""
        options = replace(self._request.options, batch_size=batch_size)
        logger.info("Measuring batch size %d", batch_size)
        gc.collect()  # the session of the last batch size and its memory
        begun_s = time.perf_counter()
        try:
            session = open_device(self._request.artifact, options, len(self._request.prompts))
        except DeviceMemoryError as exc:
            if not self._figures:
                raise
            self._error = str(exc)
            return False
        load_s = time.perf_counter() - begun_s
        if session.info.batch_size < batch_size and options.device == "cuda":
            self._error = f"a batch of {batch_size} images does not fit into the memory of the GPU"
            return False
        self._measure_session(session, options, load_s)
        return True

    def _measure_session(self, session: Session, options: WorkerOptions, load_s: float) -> None:
        request = self._request
        text = text_features_for(request.artifact, session, request.prompts)
        selecting = fixed_selection(session, text, self._pixels)
        if self._setting is None:
            self._setting = _setting(request, session)
            self._host_ms = self._measure_host(selecting.without_model(), options)
        ms = model_stages(session, text, self._pixels, selecting.threshold)
        in_flight = images_in_flight(request.artifact, replace(options, batch_size=None))
        images = request.images or _images_for((ms.encoder + ms.grounding + ms.masks) / 1e3)
        write_inputs(self._folder, images, request.picture_wh)
        rate = images_per_s(self._folder, LoadedModel(request.artifact, selecting), options, request.prompts, in_flight)
        self._figures.append(
            BatchFigures(
                batch_size=session.info.batch_size,
                in_flight=in_flight,
                load_s=round(load_s, 3),
                encoder_ms=round(ms.encoder, 3),
                grounding_ms=round(ms.grounding, 3),
                prompt_ms=round(ms.prompt, 3),
                mask_output_ms=round(ms.masks, 3),
                images_per_s=round(rate, 4),
                images=images,
                device_bytes=device_memory_used() if options.device == "cuda" else None,
            )
        )

    def _measure_host(self, session: FixedAnswers, options: WorkerOptions) -> dict[str, float]:
        request = self._request
        write_inputs(self._folder, HOST_PICTURES, request.picture_wh)
        source, run = open_folders(self._folder, request.artifact, request.prompts, "host")
        annotator, _ = build_annotator(
            AnnotatorIO(source, run_target(run), lambda: None), session, request.artifact, options
        )
        taken = host_stages(annotator, Selection(run, source).inputs(), session.info.image_side)
        return {stage: round(ms, 3) for stage, ms in taken.items()}

    def report(self) -> BenchReport:
        """The figures."""
        assert self._setting is not None, "the first batch size was measured"
        return BenchReport(
            date=datetime.now(UTC).date().isoformat(),
            version=_own_version(),
            machine=machine_of(self._request.options.device),
            setting=self._setting,
            batches=tuple(self._figures),
            largest_batch_error=self._error,
            host_ms=self._host_ms,
            resident_bytes=peak_resident_bytes(),
        )


def machine_of(device: str) -> Machine:
    """Describe this machine."""
    driver = cuda_driver() if device == "cuda" else None
    return Machine(
        processor=processor_name(),
        instructions=instruction_names(),
        cpus=usable_cpus(),
        memory_bytes=memory_limit(),
        gpu=driver.gpus[0].name if driver and driver.gpus else "",
        driver=driver.version if driver else "",
    )


def _setting(request: BenchRequest, session: Session) -> Setting:
    manifest, info = request.artifact.manifest, session.info
    return Setting(
        model_id=manifest.model_id,
        precision=manifest.precision,
        artifact=request.artifact.digest,
        runtime=info.runtime,
        provider=info.provider,
        threads=info.threads,
        image_side=info.image_side,
        prompts=len(request.prompts),
        instances=INSTANCES,
        picture_wh=request.picture_wh,
    )


def _own_version() -> str:
    """Version of this program; a checkout that is not installed has none."""
    try:
        return version("sam3-annotate")
    except PackageNotFoundError:
        return "unknown"


def _images_for(seconds: float) -> int:
    return max(_MIN_IMAGES, min(_MAX_IMAGES, round(_TARGET_S / max(seconds, 1e-3))))
