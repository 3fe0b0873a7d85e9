"""The page of licences lists what the locks hold, and nothing with a licence that forbids distribution unnoticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPORT = Path(__file__).parents[2] / "requirements" / "report.py"
PAGE = REPORT.parents[1] / "docs" / "reference" / "licences.md"
STRONG_COPYLEFT = ("GPL-3", "GPL-2", "AGPL", "GPLv")


def test_the_page_lists_every_locked_package() -> None:
    done = subprocess.run([sys.executable, REPORT, "--check"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_no_image_contains_a_package_under_the_gpl() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
    shipped = [row for row in rows if {"cpu", "gpu", "export"} & set(row[3].strip(" |").split(", "))]

    assert len(shipped) > 50
    assert [row for row in shipped if any(word in row[2] for word in STRONG_COPYLEFT) and "LGPL" not in row[2]] == []
