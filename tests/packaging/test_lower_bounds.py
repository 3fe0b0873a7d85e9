"""The lowest versions that pyproject.toml allows work: installed together, they annotate and reach a bucket."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = ("cpu", "s3", "k8s", "metrics", "tables")
LOWER_BOUND = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9][0-9.]*)")


def lower_bounds() -> list[str]:
    """One pip constraint for each direct dependency of the worker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(one for extra in EXTRAS for one in extras[extra])]
    found = [LOWER_BOUND.match(requirement) for requirement in declared]
    unbound = [requirement for requirement, match in zip(declared, found, strict=True) if match is None]
    assert not unbound, f"give these a lower bound: {unbound}"
    return [f"{match[1]}=={match[2]}" for match in found if match is not None]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_lowest_allowed_versions_work(scenes: Path, tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(lower_bounds()) + "\n", encoding="utf-8")
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", str(constraints), f"{ROOT}[{','.join(EXTRAS)}]"], check=True, cwd=tmp_path)

    def run(*arguments: str) -> str:
        command = [str(environment / "bin" / "sam3-annotate"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env={}).stdout

    for command in ("annotate", "audit", "doctor", "plan", "progress", "status", "submit", "janitor"):
        assert "Usage:" in run(command, "--help")
    run("annotate", "--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / "out"), "--limit", "2")
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 2
    for name in ("coco", "yolo", "label-studio", "cvat", "labelme", "parquet"):
        assert "2 images" in run("convert", str(tmp_path / "out"), str(tmp_path / name), "--to", name)
    modules = "import s3fs, kubernetes, prometheus_client, job.storage.s3, job.telemetry.metrics, k8s.cluster"
    subprocess.run([str(environment / "bin" / "python"), "-c", modules], check=True, cwd=tmp_path, env={})
