"""Tables of the cost model."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tests.gpu.cards import CARDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.gpu.cost import GraphCost, NodeCost, Sizes

_SMALLEST_SHARE = 0.002


def group_rows(cost: GraphCost, sizes: Sizes, by: str) -> list[list[str]]:
    """Nodes of a graph grouped by `operator` or `stage`, most traffic first; views and small groups are summed."""
    groups: dict[str, list[NodeCost]] = defaultdict(list)
    for node in cost.nodes:
        name = node.operator if by == "operator" else node.stage or "-"
        groups[name].append(node)
    ordered = sorted(groups.items(), key=lambda x: -_traffic(x[1]))
    smallest = _SMALLEST_SHARE * _traffic(cost.nodes)
    shown = [(k, v) for k, v in ordered if _traffic(v) >= smallest]
    rest = [node for k, v in ordered if _traffic(v) < smallest for node in v]
    rows = [[by, "in the file", "optimised", "launches", "GB", "TFLOP"]]
    for name, nodes in [*shown, ("others", rest)]:
        written = str(cost.written.get(name, "")) if by == "operator" else ""
        rows.append([name, written, *_figures(nodes, cost.calls, sizes)])
    if by == "operator":
        present = {x.operator for x in cost.nodes}
        rows += [[name, str(count), "0", "0", "", ""] for name, count in cost.written.items() if name not in present]
    return rows


def _figures(nodes: Sequence[NodeCost], calls: int, sizes: Sizes) -> list[str]:
    launches = calls * sum(len(x.kernels) for x in nodes)
    traffic, flop = (calls * x / sizes.batch for x in (_traffic(nodes), sum(x.flop for x in nodes)))
    return [str(len(nodes)), str(launches), f"{traffic / 1e9:.2f}", f"{flop / 1e12:.3f}"]


def _traffic(nodes: Iterable[NodeCost]) -> float:
    return sum(x.traffic for x in nodes)


def summary_rows(costs: Sequence[GraphCost], sizes: Sizes) -> list[list[str]]:
    """Each graph and their sum."""
    rows = [["graph", "TFLOP an image", "GB an image", "of it products", "launches a batch", "arena, GB"]]
    for name, part in [*((x.name, [x]) for x in costs), ("all", list(costs))]:
        flop, traffic, products = (
            sum(getattr(x, key) for x in part) / sizes.batch for key in ("flop", "traffic", "product_traffic")
        )
        launches, arena = sum(x.launches for x in part), sum(x.arena for x in part)
        per_image = (f"{flop / 1e12:.2f}", f"{traffic / 1e9:.1f}", f"{products / 1e9:.1f}")
        rows.append([name, *per_image, str(launches), f"{arena / 1e9:.2f}"])
    return rows


def card_rows(costs: Sequence[GraphCost], sizes: Sizes) -> list[list[str]]:
    """Predicted milliseconds an image and images/s of the model calls, by card."""
    rows = [["card", *(f"{x.name}, ms an image" for x in costs), "all, ms an image", "images/s"]]
    for card in CARDS:
        seconds = [x.seconds(card) / sizes.batch for x in costs]
        total = sum(seconds)
        rows.append([card.name, *(f"{1e3 * x:.1f}" for x in (*seconds, total)), f"{1 / total:.3g}"])
    return rows


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns; the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def as_json(costs: Sequence[GraphCost], sizes: Sizes) -> dict[str, Any]:
    """Figures of a batch, and of the nodes of one call."""
    return {
        "sizes": dataclasses.asdict(sizes),
        "graphs": {
            x.name: {
                "calls": x.calls,
                "flop": x.flop,
                "traffic": x.traffic,
                "product_traffic": x.product_traffic,
                "launches": x.launches,
                "arena": x.arena,
                "seconds": {card.name: x.seconds(card) for card in CARDS},
                "nodes": [
                    {"operator": n.operator, "stage": n.stage, "flop": n.flop, "traffic": n.traffic}
                    | {"launches": len(n.kernels), "provider": n.provider}
                    for n in x.nodes
                ],
            }
            for x in costs
        },
    }
