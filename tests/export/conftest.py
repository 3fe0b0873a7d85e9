"""Demo artifacts exported by the command line, shared by all tests, and functions that damage them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

# Before anything imports torch: see export/cli.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from click.testing import CliRunner, Result

from export.checkpoint import Original, load_original
from export.cli import export, verify
from export.sam3_runtime import quiet
from job.model.artifact import Artifact, open_artifact
from tests.export.cached_exports import cached_export

# 180 scenes hold at least 200 instances of every class, 40 at least 40. The slow tests compare all of them.
ALL_SCENES, MANY_SCENES, FEW_SCENES = 180, 40, 12


def run_export(*arguments: object) -> Result:
    """`sam3-annotate export`, errors raised."""
    return CliRunner().invoke(export, [str(x) for x in arguments], catch_exceptions=False, standalone_mode=False)


def run_verify(*arguments: object) -> Result:
    """`sam3-annotate verify`, errors raised."""
    return CliRunner().invoke(verify, [str(x) for x in arguments], catch_exceptions=False, standalone_mode=False)


@pytest.fixture(scope="session")
def original() -> Original:
    """The demo checkpoint in sam3's classes."""
    with quiet():
        return load_original("demo")


def export_demo(graph_format: str, precision: str, image_count: int) -> Artifact:
    """The demo model, exported and compared on so many drawn scenes; opened with its digest pinned."""

    def make(folder: Path) -> None:
        flags = {"checkpoint": "demo", "out": folder, "device": "cpu", "format": graph_format, "precision": precision}
        run_export(*(x for name, value in flags.items() for x in (f"--{name}", value)), "--image_count", image_count)

    folder = cached_export(f"{graph_format}-{precision}-{image_count}", make)
    return open_artifact(folder, open_artifact(folder).digest)


@pytest.fixture(scope="session")
def exported() -> Callable[[str, str], Artifact]:
    """Artifacts by format and precision, exported on demand. Tests must not change them; copy them first."""

    @cache
    def make(graph_format: str, precision: str) -> Artifact:
        is_main = (graph_format, precision) == ("onnx", "fp32")
        return export_demo(graph_format, precision, MANY_SCENES if is_main else FEW_SCENES)

    return make


@pytest.fixture(scope="session")
def demo_onnx(exported: Callable[[str, str], Artifact]) -> Artifact:
    """The artifact that others are compared with: ONNX, fp32."""
    return exported("onnx", "fp32")


def home_and_packages() -> tuple[bytes, ...]:
    """Strings that no exported file may contain."""
    return (b"site-packages", str(Path.home()).encode() + b"/", str(Path(__file__).parents[2]).encode())
