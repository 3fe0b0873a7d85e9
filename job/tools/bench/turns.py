"""The figures of several models and eager `sam3` that took turns on one CPU, and their table.

On a machine that does other work, turns meet the same load, and processor time depends on it least.
"""

from __future__ import annotations

from statistics import median

import msgspec

from job.model.artifact import ParityFigures, Precision
from job.model.comparison import describe
from job.tools.bench.figures import Machine

_GB = 1e9


def is_turns_file(name: str) -> bool:
    """Whether a file of docs/measurements holds a `TurnsReport`; the others hold a `BenchReport`."""
    return name.endswith(".turns.json")


class StageSeconds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of one image; `cpu` is processor time of all threads.

    Attributes:
        encoder_s: The image encoder.
        grounding_s: All prompts; of a model with the masks of the highest scores, of eager sam3 without resizing masks.
        encoder_cpu_s: Processor time of the same.
        grounding_cpu_s: Likewise.
    """

    encoder_s: float
    grounding_s: float
    encoder_cpu_s: float
    grounding_cpu_s: float

    @property
    def wall_s(self) -> float:
        """Both stages."""
        return self.encoder_s + self.grounding_s

    @property
    def cpu_s(self) -> float:
        """Processor time of both stages."""
        return self.encoder_cpu_s + self.grounding_cpu_s


class ModelTurns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model in all turns.

    Attributes:
        precision: From the manifest.
        artifact: Digest of the artifact.
        runtime: Name and version of the library.
        provider: Execution provider.
        load_cpu_s: Processor time to open the session, median.
        seconds: One for each turn.
        peak_bytes: Largest resident memory of the process: the model and the timed image.
        peak_all_bytes: The same, with the masks of every query of all prompts.
        parity: Agreement with eager sam3 on the same pixels, full size.
    """

    precision: Precision
    artifact: str
    runtime: str
    provider: str
    load_cpu_s: float
    seconds: tuple[StageSeconds, ...]
    peak_bytes: int
    peak_all_bytes: int
    parity: ParityFigures


class TurnsReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All figures of one run.

    Attributes:
        date: Day in UTC, YYYY-MM-DD.
        machine: Where.
        load_average: Processes that wanted to run, mean of the last minute, at the end of each turn.
        model_id: From the manifests.
        image_side: Side of the model's square, in pixels.
        prompts: Number of prompts.
        instances: Masks of a timed image.
        threads: Of each model and of eager sam3.
        library: Name and version of sam3 and torch.
        original: Eager sam3, one for each turn.
        models: In the order of a turn, after eager sam3.
    """

    date: str
    machine: Machine
    load_average: tuple[float, ...]
    model_id: str
    image_side: int
    prompts: int
    instances: int
    threads: int
    library: str
    original: tuple[StageSeconds, ...]
    models: tuple[ModelTurns, ...]

    def ratios(self, model: ModelTurns) -> tuple[float, float]:
        """How many times as fast as eager sam3: medians over the turns, by the clock and by processor time."""
        pairs = list(zip(self.original, model.seconds, strict=True))
        return median(a.wall_s / b.wall_s for a, b in pairs), median(a.cpu_s / b.cpu_s for a, b in pairs)


def render_turns(report: TurnsReport) -> str:
    """Render as Markdown."""
    loads = ", ".join(f"{load:.0f}" for load in report.load_average)
    head = (
        f"{report.model_id}, {report.image_side} px, {report.prompts} prompts, {report.instances} masks, "
        f"{report.threads} threads; {report.machine.host}. {report.date}. Medians of "
        f"{len(report.original)} turns: in each, eager sam3, then each model in a process of its own, one image. Load "
        f"average {loads}: where it is above the number of threads, other work shared the machine, and only processor "
        "time is comparable."
    )
    lines = [
        "| model | runtime | encoder, s | grounding and masks, s | all, s | processor time, s | times as fast as eager "
        "sam3, by the clock | by processor time | load, processor s | peak memory, GB | with all masks, GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        _row("eager fp32", report.library, report.original, ("1", "1", "-", "-", "-")),
    ]
    for model in report.models:
        wall, cpu = report.ratios(model)
        peaks = (f"{size / _GB:.2f}" for size in (model.peak_bytes, model.peak_all_bytes))
        last = (f"{wall:.2f}", f"{cpu:.2f}", f"{model.load_cpu_s:.1f}", *peaks)
        lines.append(_row(model.precision, model.runtime, model.seconds, last))
    parity = (f"- {model.precision}, {model.runtime}: {describe(model.parity)}" for model in report.models)
    return "\n".join(
        [head, "", *lines, "", "Agreement with eager sam3 on the same pixels, all queries:", "", *parity, ""]
    )


def _row(name: str, library: str, turns: tuple[StageSeconds, ...], last: tuple[str, ...]) -> str:
    stages = (
        (x.encoder_s for x in turns),
        (x.grounding_s for x in turns),
        (x.wall_s for x in turns),
        (x.cpu_s for x in turns),
    )
    return f"| {' | '.join((name, library, *(f'{median(values):.1f}' for values in stages), *last))} |"
