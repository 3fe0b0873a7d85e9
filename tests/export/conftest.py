"""Demo artifacts made by the command line, once for all tests, and ways to spoil them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before anything imports torch: see export/cli.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from click.testing import CliRunner, Result

from export.checkpoint import Original, load_original
from export.cli import export, verify
from export.sam3_runtime import quiet
from job.model.artifact import Artifact, open_artifact

# Scenes with at least 200 instances of every class among them.
MANY_SCENES, FEW_SCENES = 180, 12


def run_export(*arguments: object) -> Result:
    """`sam3-annotate export`, errors raised."""
    return CliRunner().invoke(export, [str(x) for x in arguments], catch_exceptions=False, standalone_mode=False)


def run_verify(*arguments: object) -> Result:
    """`sam3-annotate verify`, errors raised."""
    return CliRunner().invoke(verify, [str(x) for x in arguments], catch_exceptions=False, standalone_mode=False)


@pytest.fixture(scope="session")
def original() -> Original:
    """The demo checkpoint in sam3's own classes."""
    with quiet():
        return load_original("demo")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Artifact]:
    """Artifacts by format and precision, exported on demand."""
    made: dict[tuple[str, str], Artifact] = {}

    def make(graph_format: str, precision: str) -> Artifact:
        key = (graph_format, precision)
        if key not in made:
            folder = tmp_path_factory.mktemp("artifact") / "model"
            count = MANY_SCENES if key == ("onnx", "fp32") else FEW_SCENES
            flags: dict[str, Any] = {"format": graph_format, "precision": precision, "image_count": count}
            run_export(
                *("--checkpoint", "demo", "--out", folder, "--device", "cpu"),
                *(x for name, value in flags.items() for x in (f"--{name}", value)),
            )
            made[key] = open_artifact(folder, open_artifact(folder).digest)
        return made[key]

    return make


@pytest.fixture(scope="session")
def demo_onnx(exported: Callable[[str, str], Artifact]) -> Artifact:
    """The artifact that the others are measured by: ONNX, fp32."""
    return exported("onnx", "fp32")


def home_and_packages() -> tuple[bytes, ...]:
    """What no exported file may contain."""
    return (b"site-packages", str(Path.home()).encode() + b"/", str(Path(__file__).parents[2]).encode())
