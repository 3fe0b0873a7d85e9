"""`python -m export.bench.turns`: exported models and eager sam3 take turns on this CPU.

Eager sam3 stays in this process. Each model runs in a process of its own, one after the other, so that its peak of
memory is its own and at most one model is loaded beside sam3.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from job.errors import AnnotateError
from job.formats.image_resize import resize_to_square
from job.model.answers import Answer, ArtifactSide
from job.model.artifact import open_artifact
from job.model.comparison import SCORE_THRESHOLD, Tally
from job.model.loader import choose_runtime, open_session
from job.model.reference import QUERY_STEP, read_reference
from job.postprocess.masks import full_mask
from job.system.resources import peak_resident_bytes, return_freed_memory
from job.telemetry.logs import set_up_logging
from job.tools.bench.bench import machine_of
from job.tools.bench.figures import encode_report
from job.tools.bench.pictures import INSTANCES, PICTURE_WH, draw_picture
from job.tools.bench.turns import MatrixRate, ModelTurns, StageSeconds, TurnsReport, render_turns
from job.worker.batch_size import threshold_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from job.model.answers import QueryAnswer
    from job.model.artifact import Artifact, ParityFigures, Precision
    from job.model.session import RuntimeFlag, Session

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@dataclass(frozen=True)
class Contender:
    """A model and the library that runs it."""

    folder: Path
    runtime: RuntimeFlag


@dataclass(frozen=True)
class Turn:
    """One image of one model."""

    seconds: StageSeconds
    load_cpu_s: float
    runtime: str
    provider: str
    peaks_bytes: tuple[int, int]
    parity: ParityFigures


class Watch:
    """Measures stages by the clock and by processor time."""

    def __init__(self) -> None:
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self.restart()

    def restart(self) -> None:
        """Begin a stage."""
        self._begun = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """End a stage and begin the next."""
        self.wall_s.append(time.perf_counter() - self._begun[0])
        self.cpu_s.append(time.process_time() - self._begun[1])
        self.restart()

    def seconds(self) -> StageSeconds:
        """The last two stages."""
        (encoder_s, grounding_s), (encoder_cpu_s, grounding_cpu_s) = self.wall_s[-2:], self.cpu_s[-2:]
        return StageSeconds(
            encoder_s=round(encoder_s, 3),
            grounding_s=round(grounding_s, 3),
            encoder_cpu_s=round(encoder_cpu_s, 3),
            grounding_cpu_s=round(grounding_cpu_s, 3),
        )


def run_contender(contender: Contender, answers: Path, threads: int) -> Turn:
    """Open a model, time one image, and compare its answers with those of eager sam3; for a process of its own.

    The image has been annotated once before, as sam3's has. The masks are those of the model's own highest scores: with
    random weights hundreds of scores are nearly equal, so one threshold for all would give each model another number.
    """
    set_up_logging("WARNING", "text")
    return_freed_memory()
    reference, artifact = read_reference(answers), open_artifact(contender.folder)
    runtime = choose_runtime(contender.runtime, "cpu", artifact.manifest).runtime
    watch = Watch()
    session = open_session(artifact, device="cpu", threads=threads, runtime=runtime)
    watch.stop()
    load_cpu_s = watch.cpu_s[0]
    side = _warm_side(artifact, session, reference.pixels, reference.grid_hw)
    watch.restart()
    features = side.encode(reference.pixels)
    watch.stop()
    list(side.answers(features, reference.grid_hw))
    watch.stop()
    seconds, peak_bytes = watch.seconds(), peak_resident_bytes()
    (queries,) = side.query_answers(features)
    tally = Tally(artifact.manifest.prompts, SCORE_THRESHOLD)
    tally.add(reference.answers[0], _found(queries, reference.grid_hw))
    tally.add_queries(reference.queries[0], queries.sampled(QUERY_STEP))
    info = session.info
    parity = tally.figures(
        artifact.manifest.precision, "same_input", provider=info.provider, machine=machine_of("cpu").processor
    )
    peaks = (peak_bytes, peak_resident_bytes())
    return Turn(seconds, round(load_cpu_s, 3), info.runtime, info.provider, peaks, parity)


def _warm_side(
    artifact: Artifact, session: Session, pixels: NDArray[np.uint8], size_hw: tuple[int, int]
) -> ArtifactSide:
    """A model that has annotated an image, and selects as many masks of it as the bench has instances."""
    features = session.encode_images(pixels)
    (answer,) = ArtifactSide(artifact, session, math.inf, full_mask).answers(features, size_hw)
    side = ArtifactSide(artifact, session, threshold_for(answer.scores, INSTANCES), full_mask)
    list(side.answers(features, size_hw))
    return side


def _found(queries: QueryAnswer, size_hw: tuple[int, int]) -> Answer:
    """The instances among all queries."""
    selected = np.argwhere(queries.scores > np.float32(SCORE_THRESHOLD))
    masks = tuple(full_mask(queries.mask_logits[tuple(index)], size_hw) for index in selected)
    return Answer(scores=queries.scores, selected=selected, masks=masks)


def take_turns(
    contenders: Sequence[Contender], checkpoint: str, *, threads: int, turns: int, folder: Path
) -> TurnsReport:
    """Measure; the original's answers are kept in `folder` for the comparison.

    Raises:
        ConfigurationError: A model or the checkpoint cannot be used here.
        DeviceError: A model failed.
    """
    import torch

    from export.bench.cost import counted_flop
    from export.bench.matrix_rate import matrix_rate
    from export.checkpoint import load_original
    from export.graphs.graphs import image_side
    from export.parity.original import OriginalSide
    from export.parity.reference import write_reference

    artifacts = [open_artifact(each.folder) for each in contenders]
    manifest = artifacts[0].manifest
    torch.set_num_threads(threads)
    original = load_original(checkpoint)
    picture = draw_picture(PICTURE_WH)
    pixels = resize_to_square(picture, image_side(original.model))
    side = OriginalSide(original.model, manifest.prompts, SCORE_THRESHOLD, "cpu")
    answers, eager, loads = folder / "original.npz", Watch(), []
    original_s: list[StageSeconds] = []
    rates: list[MatrixRate] = []
    taken: list[list[Turn]] = [[] for _ in contenders]
    for turn in range(turns):
        rates.append(matrix_rate())
        eager.restart()
        answer, queries = side.answer(pixels, (picture.height, picture.width), after_image=eager.stop)
        eager.stop()
        original_s.append(eager.seconds())
        click.echo(f"turn {turn + 1}: {rates[-1]}, eager {original_s[-1]}")
        if turn == 0:
            write_reference(answers, [pixels], [answer], (picture.height, picture.width), [queries])
        for contender, results in zip(contenders, taken, strict=True):
            results.append(_in_own_process(contender, answers, threads))
            click.echo(f"turn {turn + 1}: {contender.folder.name} {results[-1]}")
        loads.append(round(os.getloadavg()[0], 1))
    return TurnsReport(
        date=datetime.now(UTC).date().isoformat(),
        machine=machine_of("cpu"),
        load_average=tuple(loads),
        model_id=manifest.model_id,
        image_side=manifest.image_side,
        prompts=len(manifest.prompts),
        instances=INSTANCES,
        threads=threads,
        library=f"sam3 {original.sam3_version}, torch {torch.__version__}",
        original=tuple(original_s),
        models=tuple(
            _model_turns(artifact.manifest.precision, artifact.digest, results)
            for artifact, results in zip(artifacts, taken, strict=True)
        ),
        matrix_rates=tuple(rates),
        flop_an_image=counted_flop(manifest.image_side, len(manifest.prompts)),
    )


def _in_own_process(contender: Contender, answers: Path, threads: int) -> Turn:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(run_contender, contender, answers, threads).result()


def _model_turns(precision: Precision, digest: str, turns: list[Turn]) -> ModelTurns:
    return ModelTurns(
        precision=precision,
        artifact=digest,
        runtime=turns[0].runtime,
        provider=turns[0].provider,
        load_cpu_s=statistics.median(turn.load_cpu_s for turn in turns),
        seconds=tuple(turn.seconds for turn in turns),
        peak_bytes=max(turn.peaks_bytes[0] for turn in turns),
        peak_all_bytes=max(turn.peaks_bytes[1] for turn in turns),
        parity=turns[0].parity,
    )


@click.command()
@click.option("--checkpoint", required=True, help="Checkpoint that the models were exported from, or `demo`.")
@click.option(
    "--model",
    "models",
    type=(click.Path(exists=True, file_okay=False, path_type=Path), click.Choice(["auto", "onnx", "openvino"])),
    multiple=True,
    required=True,
    help="Folder of a model and a runtime; repeatable.",
)
@click.option("--threads", type=click.IntRange(1), required=True, help="CPU threads of each model and of sam3.")
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON file of the figures.")
def main(checkpoint: str, models: tuple[tuple[Path, RuntimeFlag], ...], threads: int, turns: int, out: Path) -> None:
    """Let models and eager sam3 take turns on this CPU."""
    contenders = [Contender(folder, runtime) for folder, runtime in models]
    try:
        report = take_turns(contenders, checkpoint, threads=threads, turns=turns, folder=out.parent)
    except AnnotateError as exc:
        click.echo(f"Error: {exc}", err=True)
        raise SystemExit(exc.exit_code) from exc
    out.write_bytes(encode_report(report))
    click.echo(render_turns(report))


if __name__ == "__main__":
    main()
