"""Weights of an artifact that are stored in two bytes, and the memory of the files that hold weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino as ov

from job.system.mapped_files import release_pages

if TYPE_CHECKING:
    from pathlib import Path

_DECOMPRESSION = "decompression_0"
"""Name and version of OpenVINO's attribute of conversions that only restore a stored weight (`ov::Decompression`)."""
_WEIGHTS_SUFFIX = ".data"


def keep_bfloat16(model: ov.Model) -> int:
    """Keep weights that are stored as bfloat16 in two bytes while the graph is compiled.

    Without the attribute OpenVINO folds `constant -> Cast` into a float32 weight before it rounds that again: at full
    size 1.8 GB more, for the same bits.

    Args:
        model: The graph; its conversions are marked.

    Returns:
        Number of weights.
    """
    stored = [
        node
        for node in model.get_ops()
        if node.get_type_name() == "Convert"
        and node.input_value(0).get_node().get_type_name() == "Constant"
        and node.input_value(0).get_element_type() == ov.Type.bf16
    ]
    for node in stored:
        node.get_rt_info()[_DECOMPRESSION] = ""
    return len(stored)


def release_weights(graph: Path) -> None:
    """Release the pages of the weight file of a graph that is compiled: the compiled graph has packed weights.

    Args:
        graph: The ONNX file; smaller graphs hold their weights themselves.
    """
    release_pages(graph.with_name(f"{graph.name}{_WEIGHTS_SUFFIX}"))
