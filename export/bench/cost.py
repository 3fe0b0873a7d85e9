"""The prediction of the static cost model (`tests/gpu`) beside a measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.tools.bench.figures import Roofline
from job.tools.bench.pictures import INSTANCES

if TYPE_CHECKING:
    from job.tools.bench.figures import BatchFigures, BenchReport

_TIMEOUT_S = 150.0
_REPOSITORY = Path(__file__).parent.parent.parent
_COUNTED = (1008, 3)
"""Side of the square in pixels, and prompts, of `tests/gpu/figures.json`; its first graphs are those of fp32."""


def run_cost_model(model: Path, batch_size: int, prompts: int) -> dict[str, Any] | str:
    """Run the cost model of the repository on an artifact; returns its JSON, or why there is none."""
    if not (_REPOSITORY / "tests" / "gpu" / "__main__.py").is_file():
        return "the cost model is in the repository only (tests/gpu)"
    sizes = {"--batch": batch_size, "--prompts": prompts, "--selected": INSTANCES * batch_size}
    command = [sys.executable, "-m", "tests.gpu", str(model), "--json"]
    for flag, value in sizes.items():
        command += [flag, str(value)]
    try:
        completed = subprocess.run(
            command, cwd=_REPOSITORY, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        found: dict[str, Any] = json.loads(completed.stdout)
    except subprocess.CalledProcessError as exc:
        return f"the cost model failed: {exc.stderr.strip().rpartition(chr(10))[2]}"
    except (subprocess.TimeoutExpired, OSError, ValueError) as exc:
        return f"the cost model failed: {exc}"
    return found


def counted_flop(image_side: int, prompts: int) -> float | None:
    """FLOP an image of the graphs of fp32 and bf16, as the cost model has counted and stored them.

    Returns:
        Of products, convolutions and attention, 2 a multiply-add; None for other sizes than those that are stored, and
        outside of the repository.
    """
    if (image_side, prompts) != _COUNTED:
        return None
    try:
        figures = json.loads((_REPOSITORY / "tests" / "gpu" / "figures.json").read_text(encoding="utf-8"))
    except OSError:
        return None
    return 1e12 * float(figures["before"]["onnxruntime"]["tflop"])


def roofline(costs: dict[str, Any], gpu: str, figures: BatchFigures) -> Roofline | None:
    """Compare a measurement with the prediction for the same card; None for a card that the model does not know.

    Args:
        costs: JSON of the cost model for this batch size.
        gpu: Name of the GPU, as in `NVIDIA H100 80GB HBM3`.
        figures: The measurement.
    """
    graphs = costs["graphs"].values()
    cards = {card for graph in graphs for card in graph["seconds"]}
    card = next((name for name in sorted(cards) if name in gpu.replace("-", " ").split()), None)
    if card is None:
        return None
    predicted_ms = 1e3 * sum(graph["seconds"][card] for graph in graphs) / costs["sizes"]["batch"]
    return Roofline(card=card, predicted_ms=round(predicted_ms, 3), share=round(predicted_ms / figures.model_ms, 4))


def figures_at(report: BenchReport) -> BatchFigures:
    """The batch size with the smallest model time."""
    return min(report.batches, key=lambda figures: figures.model_ms)
