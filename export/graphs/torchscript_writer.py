"""Writes TorchScript files: trace, then remove data about this machine from the archive."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from export.sam3_runtime import quiet

if TYPE_CHECKING:
    from pathlib import Path

    from export.graphs.graphs import Graph
    from job.model.artifact import Precision

# Line numbers and paths of the traced code; the archive gives the same results without them.
_DEBUG_SUFFIX = ".debug_pkl"
_ALIGNMENT = 64


def write_torchscript(graph: Graph, folder: Path, _precision: Precision) -> str:
    """Trace a graph.

    Returns:
        Name of the graph's file.
    """
    with quiet(), torch.no_grad():
        traced: Any = torch.jit.trace(graph.module, graph.examples(), check_trace=False)  # type: ignore[no-untyped-call]
        # Through memory: torch's own writer ends the process when the disk is full.
        archive = io.BytesIO(traced.save_to_buffer())
    name = f"{graph.name}.torchscript"
    repack(archive, folder / name)
    return name


def repack(source: BinaryIO, target: Path) -> None:
    """Copy an archive without its debugging entries, tensors aligned as torch aligns them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            if entry.filename.endswith(_DEBUG_SUFFIX):
                continue
            info = zipfile.ZipInfo(entry.filename)
            info.file_size = entry.file_size
            assert new.fp is not None
            header = new.fp.tell() + 30 + len(info.filename.encode())
            # An extra field of an unassigned kind pads the header.
            gap = (-header - 4) % _ALIGNMENT
            info.extra = b"FB" + gap.to_bytes(2, "little") + b"Z" * gap
            with old.open(entry) as reading, new.open(info, "w") as writing:
                while chunk := reading.read(1 << 20):
                    writing.write(chunk)
