"""The program that uses a format reads it, in an environment of its own: tests/packaging/foreign_readers.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READERS = ("datumaro", "label-studio-sdk", "labelme", "supervision", "ultralytics", "pyarrow", "pandas", "duckdb")
THEIR_NEEDS = (
    "cmap", "contourpy", "cycler", "defusedxml", "fonttools", "imagesize", "imgviz", "json-stream",
    "json-stream-rs-tokenizer", "kiwisolver", "loguru", "lxml", "matplotlib", "opencv-python-headless", "orjson",
    "polars", "polars-runtime-32", "pydeprecate", "pyparsing", "PyQt5", "PyQt5-Qt5", "PyQt5-sip", "python-dateutil",
    "shapely", "tifffile", "ultralytics-thop",
)  # fmt: skip
"""What their readers import beyond what this environment has. All that they declare would be gigabytes: torch again,
web servers, notebooks."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_programs_themselves_read_every_instance(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    packages = next(environment.glob("lib/python3*/site-packages"))
    (packages / "this.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, *READERS, *THEIR_NEEDS], check=True, cwd=tmp_path)
    fonts = tmp_path / "Ultralytics"
    fonts.mkdir()
    # Ultralytics downloads this font if it is not there.
    shutil.copy(packages / "matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf", fonts / "Arial.ttf")
    run = [str(environment / "bin" / "python"), "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist"]
    settings = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "QT_QPA_PLATFORM": "offscreen",
        "YOLO_CONFIG_DIR": str(tmp_path),
        "YOLO_OFFLINE": "true",
    }
    completed = subprocess.run(
        [*run, "-o", "filterwarnings=", str(ROOT / "tests/packaging/foreign_readers.py")],
        env=os.environ | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stdout.write(completed.stdout)
    assert completed.returncode == 0, completed.stdout[-5000:]
    assert " passed" in completed.stdout
    assert "skipped" not in completed.stdout
