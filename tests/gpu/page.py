"""The GPU tables of docs/performance.md.

    python -m tests.gpu.page            write them from `figures.json`
    python -m tests.gpu.page --check    only compare
    python -m tests.gpu.page --count    count the present graphs first; minutes, once exported

`figures.json` holds what the cost model says: `before`, of the first fp16 graphs, and `now`, of the present ones. The
measured figures are those of the fp16 reports in docs/measurements, best batch size, model alone as predicted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from job.tools.bench.figures import BenchReport, is_bench_file
from tests.gpu.cards import CARDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.gpu.cost import GraphCost, Sizes

FIGURES = Path(__file__).with_name("figures.json")
DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "performance.md"
BEGIN, END = "<!-- gpu tables: begin, written by python -m tests.gpu.page -->", "<!-- gpu tables: end -->"
SMALLEST_SHOWN = 0.1  # gigabytes an image
_ROUTES = {
    "onnxruntime": "ONNX Runtime, CUDA provider",
    "tensorrt": "TensorRT, if it applied every documented fusion",
    "inductor": "torch.export and AOTInductor",
}


@click.command()
@click.option("--check", is_flag=True, help="Fail if the page differs from the figures.")
@click.option("--count", is_flag=True, help="Count the present graphs first.")
def main(check: bool, count: bool) -> None:
    """Write the GPU tables of docs/performance.md."""
    figures = json.loads(FIGURES.read_text())
    if count:
        figures["now"] = count_now()
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    text = PAGE.read_text()
    expected = with_tables(text, figures)
    if check and text != expected:
        sys.exit("docs/performance.md differs from tests/gpu/figures.json: run python -m tests.gpu.page")
    if not check:
        PAGE.write_text(expected)


def count_now() -> dict[str, Any]:
    """Count the graphs of this version by all routes, on an image of a batch of four with three prompts."""
    from tests.gpu.cost import Sizes, cost_of
    from tests.gpu.full_size import full_size_graphs
    from tests.gpu.routes.fusion import fused
    from tests.gpu.routes.inductor import official_costs
    from tests.gpu.stubs import stub_gpu

    sizes = Sizes()
    costs = cost_of(stub_gpu(), full_size_graphs("fp16"), sizes)
    routes = {"onnxruntime": costs, "tensorrt": [fused(x) for x in costs], "inductor": official_costs(sizes)}
    counted = {name: summary(x, sizes) for name, x in routes.items()}
    counted["onnxruntime"]["operators"] = operators(costs, sizes)
    return counted


def summary(costs: Sequence[GraphCost], sizes: Sizes) -> dict[str, Any]:
    """Figures of an image, rounded to what they are worth; launches are those of a batch."""

    def an_image(figure: Callable[[GraphCost], float], unit: float, digits: int) -> float:
        return round(sum(map(figure, costs)) / sizes.batch / unit, digits)

    return {
        "launches": sum(x.launches for x in costs),
        "tflop": an_image(lambda x: x.flop, 1e12, 2),
        "gigabytes": an_image(lambda x: x.traffic, 1e9, 1),
        "product_gigabytes": an_image(lambda x: x.product_traffic, 1e9, 1),
        "arena_gigabytes": round(sum(x.arena for x in costs) / 1e9, 1),
        "ms": {card.name: an_image(lambda x: x.seconds(card), 1e-3, 1) for card in CARDS},  # noqa: B023
    }


def operators(costs: Sequence[GraphCost], sizes: Sizes) -> dict[str, list[float]]:
    """Gigabytes an image and launches a batch by operator, most traffic first; small ones are `all others`."""
    found: dict[str, list[float]] = {}
    for cost in costs:
        for node in cost.nodes:
            sums = found.setdefault(node.operator, [0.0, 0])
            sums[0] += cost.calls * node.traffic / sizes.batch / 1e9
            sums[1] += cost.calls * len(node.kernels)
    large = {k: v for k, v in sorted(found.items(), key=lambda x: -x[1][0]) if v[0] >= SMALLEST_SHOWN}
    rest = [v for k, v in found.items() if k not in large]
    large["all others"] = [sum(x[0] for x in rest), sum(x[1] for x in rest)]
    return {name: [round(gigabytes, 2), launches] for name, (gigabytes, launches) in large.items()}


def with_tables(text: str, figures: dict[str, Any]) -> str:
    """The page with its tables replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    reports = (x for x in sorted((DOCS / "measurements").glob("*.json")) if is_bench_file(x.name))
    shown = tables(figures, measured(msgspec.json.decode(x.read_bytes(), type=BenchReport) for x in reports))
    return f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}"


def measured(reports: Iterable[BenchReport]) -> dict[str, float]:
    """Milliseconds an image of the model alone in fp16, by card of the cost model."""
    return {
        x.roofline.card: min(batch.model_ms for batch in x.batches)
        for x in reports
        if x.roofline and x.setting.precision == "fp16"
    }


def tables(figures: dict[str, Any], measured_ms: dict[str, float]) -> str:
    """Graphs, their operators, cards and routes, as Markdown."""
    rows = (_graph_rows(figures), _operator_rows(figures), _card_rows(figures, measured_ms), _route_rows(figures))
    return "\n\n".join(_markdown(x) for x in rows)


def _graph_rows(figures: dict[str, Any]) -> list[list[str]]:
    keys = {
        "gigabytes": "memory traffic, GB an image",
        "product_gigabytes": "of it by matrix products, convolutions and attention",
        "tflop": "TFLOP an image",
        "launches": "kernel launches a batch of four",
        "arena_gigabytes": "GPU memory, GB, without cuDNN's workspace",
    }
    before, now = figures["before"]["onnxruntime"], figures["now"]["onnxruntime"]
    rows = [[title, f"{before[key]:,}", f"{now[key]:,}"] for key, title in keys.items()]
    return [["ONNX Runtime, CUDA provider", "first fp16 graphs", "present graphs"], *rows]


def _operator_rows(figures: dict[str, Any]) -> list[list[str]]:
    left = figures["now"]["onnxruntime"]["operators"]
    rows = [[name, f"{gigabytes:.2f}", f"{launches:,}"] for name, (gigabytes, launches) in left.items()]
    return [["operator of the present graphs", "GB an image", "launches a batch of four"], *rows]


def _card_rows(figures: dict[str, Any], measured_ms: dict[str, float]) -> list[list[str]]:
    rows = [["GPU", "predicted, first graphs", "predicted, present graphs", "measured"]]
    for name in (x.name for x in CARDS):
        predicted = [_rate(figures[x]["onnxruntime"]["ms"][name]) for x in ("before", "now")]
        rows.append([name, *predicted, _rate(measured_ms[name]) if name in measured_ms else "not measured yet"])
    return rows


def _rate(ms: float) -> str:
    return f"{1e3 / ms:.2g} images/s, {ms:.3g} ms an image"


def _route_rows(figures: dict[str, Any]) -> list[list[str]]:
    rows = [["runtime", "graphs", "launches", "GB an image", *(f"{x.name}, images/s" for x in CARDS)]]
    for key, title in _ROUTES.items():
        for graphs, label in (("before", "first"), ("now", "present")):
            if route := figures[graphs].get(key):
                rates = [f"{1e3 / route['ms'][card.name]:.2g}" for card in CARDS]
                rows.append([title, label, f"{route['launches']:,}", f"{route['gigabytes']:g}", *rates])
    return rows


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(x)} |" for x in (head, ["---"] * len(head), *body))


if __name__ == "__main__":
    main()
