"""The figures of `annotate` with several worker processes and images in flight on one CPU, and their table."""

from __future__ import annotations

import msgspec

from job.model.artifact import Precision
from job.tools.bench.figures import Machine

_GB = 1e9


def is_concurrency_file(name: str) -> bool:
    """Whether a file of docs/measurements holds a `ConcurrencyReport`."""
    return name.endswith(".concurrency.json")


class ConcurrencyRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of `annotate`.

    Attributes:
        workers: Worker processes; they share the threads.
        in_flight: Images in flight in each of them.
        images_per_s: From the first image that a worker has finished with all in flight, to the last.
        cpu_s_an_image: Processor time of all processes, start included, for an image.
        peak_bytes: Largest proportional memory (PSS) of all processes together.
    """

    workers: int
    in_flight: int
    images_per_s: float
    cpu_s_an_image: float
    peak_bytes: int


class ConcurrencyReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All figures of one call.

    Attributes:
        date: Day in UTC, YYYY-MM-DD.
        machine: Where.
        load_average: Processes that wanted to run, mean of the last minute, after each run.
        model_id: From the manifest.
        precision: Likewise.
        artifact: Digest of the artifact.
        runtime: Name of the library.
        threads: Threads of all workers together.
        pictures: Pictures of each run.
        picture_wh: Their width and height, in pixels.
        rows: One for each run.
    """

    date: str
    machine: Machine
    load_average: tuple[float, ...]
    model_id: str
    precision: Precision
    artifact: str
    runtime: str
    threads: int
    pictures: int
    picture_wh: tuple[int, int]
    rows: tuple[ConcurrencyRow, ...]


def render_concurrency(report: ConcurrencyReport) -> str:
    """Render as Markdown."""
    width, height = report.picture_wh
    head = (
        f"{report.model_id}, {report.precision}, {report.runtime}, {report.pictures} pictures of {width} x {height}, "
        f"{report.threads} threads for all workers; {report.machine.host}. {report.date}. "
        f"Load average {', '.join(f'{load:.0f}' for load in report.load_average)}.\n\n"
    )
    columns = ("workers", "images in flight, each", "images/s", "processor time an image, s", "memory of all, GB")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in report.rows:
        cells = (f"{row.images_per_s:.3f}", f"{row.cpu_s_an_image:.1f}", f"{row.peak_bytes / _GB:.2f}")
        lines.append(f"| {row.workers} | {row.in_flight} | {' | '.join(cells)} |")
    return head + "\n".join(lines) + "\n"
