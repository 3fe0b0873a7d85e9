"""Int8 for OpenVINO: draft after draft with fewer rounded tensors, until one agrees with the original."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import msgspec
import onnx_ir as ir
from onnx_ir.external_data import load_to_model

from export.calibrated.observation import observe, sites_of
from export.calibrated.rounding import plan_site, quantize_sites, weights_of
from export.graphs.onnx_writer import save
from export.parity.pictures import files_of
from export.parity.recording import release_memory
from job.formats.image_resize import resize_to_square
from job.model.artifact import Quantization

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from export.calibrated.observation import Site
    from export.calibrated.rounding import SitePlan
    from job.model.artifact import Artifact

_FLOAT32 = ".float32"
MAX_CALIBRATION_IMAGES = 300
"""Files of a calibration folder that are used, the first by name."""
STEPS = (0, 1, 2, 4, 8)
"""Sixteenths of the tensors that stay in higher precision, draft after draft."""


@dataclass(frozen=True)
class CalibratedEncoder:
    """A float32 image encoder, and how its tensors would be rounded.

    Attributes:
        artifact: Draft of the artifact; the image encoder's files are in `source`.
        source: Folder of the float32 image encoder.
        plans: By site, first those that remove most error for their time if they stay in higher precision.
        images: Calibration images.
    """

    artifact: Artifact
    source: Path
    plans: dict[Site, SitePlan]
    images: int

    def drafts(self) -> Iterator[Artifact]:
        """Write one draft after the other, each with more tensors in higher precision."""
        sites = list(self.plans)
        for kept in dict.fromkeys(-(-len(sites) * step // 16) for step in STEPS):
            yield self._write(sites[:kept], sites[kept:])

    def _write(self, kept: list[Site], rounded: list[Site]) -> Artifact:
        name = self.artifact.manifest.image_encoder.file
        model = ir.load(self.source / name)
        quantize_sites(model, {site: self.plans[site] for site in rounded})
        load_to_model(model)  # what stays float32 may be in the second file of the source
        for path in self.artifact.folder.glob(f"{name}*"):
            path.unlink()
        save(model, self.artifact.folder, name)
        if kept:
            click.echo(f"In higher precision: {', '.join(site.name for site in kept)}")
        quantization = Quantization(
            calibration_images=self.images, rounded=len(rounded), kept=tuple(site.name for site in kept)
        )
        manifest = msgspec.structs.replace(self.artifact.manifest, quantization=quantization)
        return msgspec.structs.replace(self.artifact, manifest=manifest)


@contextmanager
def calibrated(
    artifact: Artifact, pixels: Iterable[NDArray[np.uint8]], threads: int | None
) -> Iterator[CalibratedEncoder]:
    """Observe the image encoder of a float32 draft, and move its files aside while the block runs.

    Args:
        artifact: The draft.
        pixels: uint8 (S, S, 3) of each calibration image.
        threads: Threads of the processor, None for all.
    """
    name, source = artifact.manifest.image_encoder.file, artifact.folder / _FLOAT32
    source.mkdir()
    try:
        for path in artifact.folder.glob(f"{name}*"):
            path.rename(source / path.name)
        model = ir.load(source / name)
        sites = sites_of(model)
        observations, images = observe(source / name, sites, pixels, threads)
        release_memory()
        plans = {site: plan_site(observations[site.name], weights_of(model, site)) for site in sites}
        ordered = sorted(plans.items(), key=lambda pair: -pair[1].error_per_weight)
        errors = [plan.error for plan in plans.values()]
        click.echo(
            f"Calibrated on {images} images: {len(sites)} tensors, error of their products "
            f"{min(errors):.2g} to {max(errors):.2g}"
        )
        yield CalibratedEncoder(artifact, source, dict(ordered), images)
    finally:
        shutil.rmtree(source, ignore_errors=True)


def calibration_pixels(folder: Path, image_side: int) -> Iterator[NDArray[np.uint8]]:
    """Read the pictures of a folder, resized to the model's square.

    Raises:
        UsageError: The folder has no image file, or one that cannot be read.
    """
    for picture in files_of(folder, MAX_CALIBRATION_IMAGES, "--calibration"):
        yield resize_to_square(picture, image_side)
