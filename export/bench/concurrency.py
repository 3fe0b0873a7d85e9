"""`python -m export.bench.concurrency`: `annotate` with several workers and images in flight on this CPU.

Each run is a process of its own, as a user starts it, on synthetic pictures. The rate leaves out the time to load the
model: it is taken between outputs. Nothing is checked here; `turns` compares answers.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from job.errors import AnnotateError, WorkerError
from job.model.artifact import open_artifact
from job.model.loader import choose_runtime
from job.run.options import WorkerOptions
from job.tools.bench.bench import machine_of
from job.tools.bench.concurrency import ConcurrencyReport, ConcurrencyRow, render_concurrency
from job.tools.bench.end_to_end import write_inputs
from job.tools.bench.figures import encode_report
from job.tools.bench.pictures import PICTURE_WH
from job.worker.memory_need import images_in_flight

if TYPE_CHECKING:
    from job.model.session import RuntimeFlag

_SAMPLE_S = 0.2


def measure(command: list[str], output: Path, workers: int, in_flight: int) -> ConcurrencyRow:
    """Run one `annotate` to its end.

    Args:
        command: The command line, without numbers of workers and images in flight.
        output: Its output folder.
        workers: Worker processes.
        in_flight: Images in flight in each.

    Raises:
        WorkerError: It failed, or it wrote too few images to tell a rate.
    """
    before = _child_cpu_s()
    flags = ["--workers", str(workers), "--batch_size", str(in_flight), "--out_top_dir", str(output)]
    with (output.parent / "log.txt").open("w+") as log:
        process = subprocess.Popen([*command, *flags], stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(_proportional_bytes, _tree(process.pid))))
            time.sleep(_SAMPLE_S)
        if process.returncode:
            log.seek(0)
            raise WorkerError(f"annotate ended with {process.returncode}: {log.read()[-2000:]}")
    finished = sorted(path.stat().st_mtime for path in output.rglob("*.npz"))
    started = workers * in_flight
    if len(finished) <= started:
        raise WorkerError(f"{len(finished)} pictures are too few for {started} in flight: give more --pictures")
    return ConcurrencyRow(
        workers=workers,
        in_flight=in_flight,
        images_per_s=round((len(finished) - started) / (finished[-1] - finished[started - 1]), 4),
        cpu_s_an_image=round((_child_cpu_s() - before) / len(finished), 3),
        peak_bytes=peak,
    )


def _child_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree(pid: int) -> list[int]:
    """A process and all that its threads have started."""
    try:
        tasks = [path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []  # it has ended, or one of its threads
    return [pid, *(below for task in tasks for child in task.split() for below in _tree(int(child)))]


def _proportional_bytes(pid: int) -> int:
    """Memory of a process, where pages that n processes share count 1/n; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


@click.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--runtime", type=click.Choice(["auto", "onnx", "openvino"]), default="auto", show_default=True)
@click.option(
    "--run",
    "runs",
    type=(click.IntRange(1), click.IntRange(1)),
    multiple=True,
    default=((1, 1), (1, 2), (1, 4), (2, 1), (2, 2)),
    show_default=True,
    help="Workers, and images in flight in each; repeatable.",
)
@click.option("--threads", type=click.IntRange(1), required=True, help="CPU threads of all workers together.")
@click.option("--pictures", type=click.IntRange(2), default=24, show_default=True, help="Pictures of each run.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON file of the figures.")
def main(
    model: Path, runtime: RuntimeFlag, runs: tuple[tuple[int, int], ...], threads: int, pictures: int, out: Path
) -> None:
    """Measure `annotate` with several numbers of workers and images in flight."""
    try:
        report = _measure_all(model, runtime, runs, threads, pictures)
    except AnnotateError as exc:
        click.echo(f"Error: {exc}", err=True)
        raise SystemExit(exc.exit_code) from exc
    out.write_bytes(encode_report(report))
    click.echo(render_concurrency(report))


def _measure_all(
    model: Path, runtime: RuntimeFlag, runs: tuple[tuple[int, int], ...], threads: int, pictures: int
) -> ConcurrencyReport:
    artifact = open_artifact(model)
    chosen = choose_runtime(runtime, "cpu", artifact.manifest).runtime
    rows, loads = [], []
    with TemporaryDirectory(prefix="sam3-concurrency-") as name:
        write_inputs(Path(name), pictures, PICTURE_WH)
        command = [sys.executable, "-m", "job", "annotate", "--input_top_dir", str(Path(name) / "in")]
        command += ["--model", str(model)]
        command += ["--runtime", chosen, "--device", "cpu", "--threads", str(threads), "--self_check", "off"]
        for number, (workers, in_flight) in enumerate(runs):
            options = WorkerOptions(device="cpu", runtime=chosen, workers=workers, batch_size=in_flight)
            if images_in_flight(artifact, options) < in_flight:
                raise WorkerError(f"{in_flight} images in flight do not fit into memory: give less in --run")
            rows.append(measure(command, Path(name) / f"out-{number}", workers, in_flight))
            loads.append(round(os.getloadavg()[0], 1))
            click.echo(str(rows[-1]))
    return ConcurrencyReport(
        date=datetime.now(UTC).date().isoformat(),
        machine=machine_of("cpu"),
        load_average=tuple(loads),
        model_id=artifact.manifest.model_id,
        precision=artifact.manifest.precision,
        artifact=artifact.digest,
        runtime=chosen,
        threads=threads,
        pictures=pictures,
        picture_wh=PICTURE_WH,
        rows=tuple(rows),
    )


if __name__ == "__main__":
    main()
