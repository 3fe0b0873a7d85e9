"""Mutation of JSON: a node of the tree is replaced, removed or repeated, because byte mutations seldom stay JSON."""

from __future__ import annotations

import json
import random
from typing import Any

_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 255, 256, 1 << 31, 1 << 63, 10**400, -0.5, 1e308, "", "\x00", "../x", "/x", "\ud800", "a" * 300,
    [], {}, [[]], {"": {}},
)  # fmt: skip


def mutate_json(data: bytes, seed: int) -> bytes | None:
    """Change one node of one line; None if the line is no JSON."""
    chosen = random.Random(seed)
    lines = data.split(b"\n")
    number = chosen.randrange(len(lines))
    try:
        tree = json.loads(lines[number])
    except (ValueError, RecursionError):
        return None
    lines[number] = json.dumps(_changed(tree, chosen)).encode()
    return b"\n".join(lines)


def _changed(node: Any, chosen: random.Random) -> Any:
    children: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node))) if _is_list(node) else []
    if not children or chosen.random() < 0.2:
        return chosen.choice(_VALUES)
    child, action = chosen.choice(children), chosen.random()
    if action < 0.8:
        node[child] = _changed(node[child], chosen)
    elif action < 0.9:
        del node[child]
    elif isinstance(node, dict):
        node[chosen.choice(("x", "", "review", "path"))] = node[child]
    else:
        node.append(node[child])
    return node


def _is_list(node: Any) -> bool:
    return isinstance(node, list)
