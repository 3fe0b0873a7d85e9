"""Command line of the cost model: `python -m tests.gpu [MODEL_DIR]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from tests.gpu.cards import CARDS, LAUNCH_S, SHARE_OF_BANDWIDTH, SHARE_OF_PEAK
from tests.gpu.cost import GraphCost, Sizes, cost_of
from tests.gpu.report import as_json, card_rows, group_rows, summary_rows, table
from tests.gpu.stubs import stub_gpu


@click.command()
@click.argument("model", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--batch", default=4, show_default=True, help="Images a batch.")
@click.option("--prompts", default=3, show_default=True, help="Prompts an image.")
@click.option("--selected", default=28, show_default=True, help="Masks above the threshold, a batch.")
@click.option("--rows", type=int, help="Pairs of image and prompt with such a mask, a batch.  [default: all]")
@click.option("--sm", default=80, show_default=True, help="Compute capability that chooses the kernels; 75 is 7.5.")
@click.option("--by", type=click.Choice(["operator", "stage"]), default="operator", show_default=True)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def main(model: Path | None, sm: int, by: str, is_json: bool, **given: Any) -> None:
    """Count FLOP, memory traffic and launches of a model on a GPU, and predict its speed; needs no GPU.

    MODEL is the folder of an ONNX artifact. Without it, the official model at full size in fp16 is exported with
    random weights; that takes minutes and 3 GB of memory the first time.
    """
    sizes = sizes_of(**given)
    costs = cost_of(stub_gpu(), model or _full_size(), sizes, sm=sm)
    sys.stdout.write(json.dumps(as_json(costs, sizes), indent=1) + "\n" if is_json else _text(costs, sizes, by))


def sizes_of(batch: int, prompts: int, selected: int, rows: int | None) -> Sizes:
    """Every row has a mask unless the number of rows is given."""
    return Sizes(batch, prompts, selected, rows or batch * prompts)


def _full_size() -> Path:
    from tests.gpu.full_size import full_size_graphs

    return full_size_graphs("fp16")


def _text(costs: tuple[GraphCost, ...], sizes: Sizes, by: str) -> str:
    parts = [
        f"A batch of {sizes.batch} images with {sizes.prompts} prompts each; TFLOP and GB are an image's.",
        *(f"{x.name}\n{table(group_rows(x, sizes, by))}" for x in costs),
        f"Sum\n{table(summary_rows(costs, sizes))}",
        f"Predicted, not measured: the longer of products at {SHARE_OF_PEAK:.0%} of the dense peak and traffic at "
        f"{SHARE_OF_BANDWIDTH:.0%} of the bandwidth, for each node; {LAUNCH_S * 1e6:.0f} us a launch\n"
        f"{table(card_rows(costs, sizes))}",
        *(f"{x.name}: {x.source}" for x in CARDS),
    ]
    return "\n\n".join(parts[: -len(CARDS)]) + "\n\n" + "\n".join(parts[-len(CARDS) :]) + "\n"


if __name__ == "__main__":
    main()
