"""The official model's size with random weights: graphs of 840 million parameters against the eager original.

Takes about 12 GB of memory and minutes; `make soak` runs it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.bench.random_weights import random_original
from export.checkpoint import Original, load_original
from export.demo_model.scenes.scenes import draw_scene
from export.exporter import write_files
from export.parity.original import OriginalSide
from export.sam3_runtime import quiet, running_on
from job.formats.image_resize import resize_to_square
from job.model.artifact import GraphFormat, Precision
from job.model.loader import open_session, runtime_of
from job.model.prompts import PromptTokenizer, stored_text_features
from job.model.reference import QUERY_STEP
from job.system.resources import peak_resident_bytes
from tests.export.layouts import sam3_layout, sam31_layout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

THREADS = 2
SIDE = 1008


@dataclass(frozen=True)
class Eager:
    """The original's answers to one picture and the prompt `car`; of the mask logits a sample."""

    pixels: NDArray[np.uint8]
    maps: list[NDArray[np.float32]]
    scores: NDArray[np.float32]
    mask_logits: NDArray[np.float32]


@pytest.fixture(scope="module")
def full_size() -> Original:
    return random_original()


@pytest.fixture(scope="module")
def eager(full_size: Original) -> Eager:
    torch.set_num_threads(THREADS)
    pixels = resize_to_square(draw_scene(1).image, SIDE)
    side = OriginalSide(full_size.model, ("car",), 0.4, "cpu")
    started = time.monotonic()
    with running_on("cpu"), quiet(), side._recorded() as recorded:
        state = side._processor.set_image(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        encoded = time.monotonic()
        side._processor.set_text_prompt("car", state)
    (output,) = recorded
    report("eager", encode=encoded - started, prompt=time.monotonic() - encoded)
    return Eager(
        pixels=pixels,
        maps=[x.numpy() for x in state["backbone_out"]["backbone_fpn"]],
        scores=output.scores,
        mask_logits=output.mask_logits,
    )


@pytest.mark.parametrize(
    ("graph_format", "precision", "limit"),
    [("onnx", "fp32", 1e-4), ("onnx", "fp16", 0.02), ("onnx", "int8", 0.2), ("torchscript", "fp32", 1e-4)],
)
def test_every_output_is_within_tolerance_of_the_original(
    full_size: Original, eager: Eager, tmp_path: Path, graph_format: GraphFormat, precision: Precision, limit: float
) -> None:
    with clock(f"{graph_format} {precision} export"):
        artifact = write_files(full_size, tmp_path, graph_format, precision)
    megabytes = {name: entry.size // 1_000_000 for name, entry in artifact.manifest.files.items()}
    with clock("open"):
        session: Any = open_session(artifact, device="cpu", threads=THREADS, runtime=runtime_of(graph_format))
    with clock("encode"):
        features = session.encode_images(eager.pixels[None])
    text = stored_text_features(artifact)["car"]
    with clock("ground one prompt"):
        (found,) = session.ground(features, text, -1.0)
    maps = [x.numpy() for x in features.maps]
    errors = {f"feature_{i}": relative_error(a, b) for i, (a, b) in enumerate(zip(maps, eager.maps, strict=True))}
    errors["scores"] = relative_error(found.scores[0], eager.scores)
    errors["mask_logits"] = relative_error(found.mask_logits[:, ::QUERY_STEP, ::QUERY_STEP], eager.mask_logits)
    with clock("encode text"):
        encoded = session.encode_text(PromptTokenizer(artifact).token_ids(["car"]))
    errors["text_features"] = relative_error(encoded.features, text.features)
    report("sizes in MB", **megabytes)
    report("relative errors", **errors)
    assert max(errors.values()) <= limit


def test_sam_31_exports_to_the_graphs_of_sam_3_with_the_same_weights(full_size: Original, tmp_path: Path) -> None:
    files = {}
    for layout in (sam3_layout, sam31_layout):
        torch.save(layout(full_size.model), tmp_path / "checkpoint.pt")
        folder = tmp_path / "model"
        folder.mkdir()
        written = write_files(load_original(str(tmp_path / "checkpoint.pt")), folder, "onnx", "fp32").manifest
        files[written.model_id] = written.files
        shutil.rmtree(folder)
    assert files["SAM3.1"] == files["SAM3"]


def relative_error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


class clock:  # noqa: N801 (reads as a function)
    """Print how long a block takes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        report(self.name, s=time.monotonic() - self.started)


def report(name: str, **figures: float) -> None:
    print(f"\n{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()), end="")  # noqa: T201


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    yield

    report("peak memory", GB=peak_resident_bytes() / 1e9)
