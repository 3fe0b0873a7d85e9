"""The figures of a `bench` as Markdown tables, for the terminal and for docs/performance.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from job.tools.bench.figures import BenchReport

_GIB = 1 << 30


def render(report: BenchReport) -> str:
    """Render all figures."""
    parts = ["\n".join(_conditions(report)), _table(_MODEL_HEAD, _model_rows(report)), _host_table(report)]
    parts += ["\n".join(notes)] if (notes := list(_notes(report))) else []
    return "\n\n".join(parts) + "\n"


_MODEL_HEAD = (
    "batch", "in flight", "encoder ms", "grounding ms, all prompts", "one prompt", "mask output ms", "model ms",
    "images/s", "GPU memory", "load s",
)  # fmt: skip


def _conditions(report: BenchReport) -> Iterator[str]:
    machine, setting = report.machine, report.setting
    width, height = setting.picture_wh
    where = f"{machine.gpu} (driver {machine.driver}); host {machine.host}" if machine.gpu else machine.host
    threads = f", {setting.threads} threads" if setting.threads else ""
    yield (
        f"{setting.model_id} {setting.precision}, {setting.image_side} px, {setting.runtime}, {setting.provider}"
        f"{threads}. {where}; {_gib(machine.memory_bytes)} of memory. {report.date}, sam3-annotate {report.version}."
    )
    yield ""
    yield (
        f"JPEG pictures of {width} x {height}, {setting.prompts} prompts, {setting.instances} instances by a fixed "
        "selection. Milliseconds are medians an image; images/s is from files to written masks, model loaded."
    )


def _model_rows(report: BenchReport) -> Iterator[Sequence[str]]:
    for each in report.batches:
        stages = (each.encoder_ms, each.grounding_ms, each.prompt_ms, each.mask_output_ms, each.model_ms)
        memory = "-" if each.device_bytes is None else _gib(each.device_bytes)
        rates = (_short(each.images_per_s), memory, _short(each.load_s))
        yield (str(each.batch_size), str(each.in_flight), *map(_short, stages), *rates)
    if (original := report.original) is not None:
        stages_of = (_short(original.encoder_ms), _short(original.grounding_ms), "-", "in grounding")
        yield (f"eager {original.library}", "1", *stages_of, _short(original.model_ms), "-", "-", "-")


def _host_table(report: BenchReport) -> str:
    stages = dict(report.host_ms)
    stages["all"] = sum(stages.values())
    return _table(("core time of the host, ms an image", *stages), [("", *map(_short, stages.values()))])


def _notes(report: BenchReport) -> Iterator[str]:
    yield f"Peak of the resident memory: {_gib(report.resident_bytes)}."
    if report.original is not None:
        ratio = report.original.model_ms / min(each.model_ms for each in report.batches)
        yield f"The model is {ratio:.2f} times as fast as eager sam3 in the same run."
    if report.roofline is not None:
        yield (
            f"The cost model predicts {_short(report.roofline.predicted_ms)} ms an image on {report.roofline.card}: "
            f"{report.roofline.share:.0%} of that speed were reached."
        )
    if report.largest_batch_error:
        yield f"Larger batches were not measured: {report.largest_batch_error}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
