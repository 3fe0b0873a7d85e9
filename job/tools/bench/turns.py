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
_COLUMNS = (
    "model",
    "runtime",
    "encoder, s",
    "grounding and masks, s",
    "all, s",
    "processor time, s",
    "times as fast as eager sam3, by the clock",
    "by processor time",
    "load, processor s",
    "peak memory, GB",
    "with all masks, GB",
)
_SHARE_COLUMNS = ("GFLOP/s", "share of the rate of matrix products, by processor time")


def is_turns_file(name: str) -> bool:
    """Whether a file of docs/measurements holds a `TurnsReport`."""
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


class ProductRate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arithmetic of a large matrix product, 2 a multiply-add.

    Attributes:
        gflop_s: GFLOP in a second of the clock, by all threads.
        gflop_cpu_s: GFLOP in a second of processor time.
    """

    gflop_s: float
    gflop_cpu_s: float


class MatrixRate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What matrix products by torch reach on the threads of the models.

    Attributes:
        float32: In float32.
        bfloat16: In bfloat16; None for a processor without instructions for it.
    """

    float32: ProductRate
    bfloat16: ProductRate | None = None


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
        matrix_rates: One for each turn, measured before eager sam3; none in files of earlier versions.
        flop_an_image: Of products, convolutions and attention; None if they were not counted for these sizes.
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
    matrix_rates: tuple[MatrixRate, ...] = ()
    flop_an_image: float | None = None

    def ratios(self, model: ModelTurns) -> tuple[float, float]:
        """How many times as fast as eager sam3: medians over the turns, by the clock and by processor time."""
        pairs = list(zip(self.original, model.seconds, strict=True))
        return median(a.wall_s / b.wall_s for a, b in pairs), median(a.cpu_s / b.cpu_s for a, b in pairs)

    def best_rate(self, precision: str) -> ProductRate | None:
        """Median over the turns of the rate that bounds a precision; None if it was not measured."""
        name = {"fp32": "float32", "bf16": "bfloat16"}.get(precision, "")
        rates = [rate for each in self.matrix_rates if (rate := getattr(each, name, None)) is not None]
        if not rates:
            return None
        return ProductRate(
            gflop_s=median(rate.gflop_s for rate in rates), gflop_cpu_s=median(rate.gflop_cpu_s for rate in rates)
        )

    def share_of_rate(self, precision: str, turns: tuple[StageSeconds, ...]) -> float | None:
        """Arithmetic of a model in a second of processor time, as a fraction of that of matrix products."""
        rate = self.best_rate(precision)
        if rate is None or self.flop_an_image is None:
            return None
        return self.flop_an_image / 1e9 / median(x.cpu_s for x in turns) / rate.gflop_cpu_s


def render_turns(report: TurnsReport) -> str:
    """Render as Markdown."""
    loads = ", ".join(f"{load:.0f}" for load in report.load_average)
    head = (
        f"{report.model_id}, {report.image_side} px, {report.prompts} prompts, {report.instances} masks, "
        f"{report.threads} threads; {report.machine.host}. {report.date}. Medians of "
        f"{len(report.original)} turns: in each, eager sam3, then each model in a process of its own, an image that it "
        f"has annotated once before. Load average {loads}: where it is above the number of threads, other work shared "
        "the machine, and only processor time is comparable."
    )
    eager_shares = _shares(report, "fp32", report.original)
    names = [*_COLUMNS, *(_SHARE_COLUMNS if eager_shares else ())]
    lines = [
        f"| {' | '.join(names)} |",
        "|" + "---|" * len(names),
        _row("eager fp32", report.library, report.original, ("1", "1", "-", "-", "-", *eager_shares)),
    ]
    for model in report.models:
        wall, cpu = report.ratios(model)
        peaks = (f"{size / _GB:.2f}" for size in (model.peak_bytes, model.peak_all_bytes))
        shares = _shares(report, model.precision, model.seconds)
        last = (f"{wall:.2f}", f"{cpu:.2f}", f"{model.load_cpu_s:.1f}", *peaks, *shares)
        lines.append(_row(model.precision, model.runtime, model.seconds, last))
    parity = (f"- {model.precision}, {model.runtime}: {describe(model.parity)}" for model in report.models)
    return "\n".join(
        [
            head,
            "",
            *lines,
            "",
            *_ceiling(report),
            "Agreement with eager sam3 on the same pixels, all queries:",
            "",
            *parity,
            "",
        ]
    )


def _shares(report: TurnsReport, precision: str, turns: tuple[StageSeconds, ...]) -> tuple[str, ...]:
    """GFLOP/s by the clock, and the share of the rate of matrix products by processor time; none if not measured."""
    if report.flop_an_image is None or not report.matrix_rates:
        return ()
    share = report.share_of_rate(precision, turns)
    return (
        f"{report.flop_an_image / 1e9 / median(x.wall_s for x in turns):.0f}",
        "-" if share is None else f"{share:.0%}",
    )


def _ceiling(report: TurnsReport) -> list[str]:
    """What products of large matrices reach, and how much faster than eager sam3 a model could be by them."""
    parts = []
    for precision, name in (("fp32", "float32"), ("bf16", "bfloat16")):
        rate = report.best_rate(precision)
        if rate is None:
            continue
        text = f"in {name} {rate.gflop_s:.0f} GFLOP/s by the clock and {rate.gflop_cpu_s:.0f} by processor time"
        if report.flop_an_image is not None:
            needed_s = report.flop_an_image / 1e9 / rate.gflop_cpu_s
            times = median(x.cpu_s for x in report.original) / needed_s
            text += f", {times:.2f} times as fast as eager sam3 on {report.flop_an_image / 1e12:.2f} TFLOP an image"
        parts.append(text)
    if not parts:
        return []
    return [f"Products of large matrices by torch on the same threads, in the same turns: {'; '.join(parts)}.", ""]


def _row(name: str, library: str, turns: tuple[StageSeconds, ...], last: tuple[str, ...]) -> str:
    stages = (
        (x.encoder_s for x in turns),
        (x.grounding_s for x in turns),
        (x.wall_s for x in turns),
        (x.cpu_s for x in turns),
    )
    return f"| {' | '.join((name, library, *(f'{median(values):.1f}' for values in stages), *last))} |"
