"""A policy scanner, in an environment of its own, over the chart: each finding has a reason in the documents."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.chart.rendering import RELEASES, render

ROOT = Path(__file__).parents[2]
REASONS = ROOT / "docs" / "guides" / "platform.md"
CHECK = re.compile(r"CKV2?_K8S_\d+")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_finding_of_checkov_has_a_reason(tmp_path: Path) -> None:
    environment, rendered = tmp_path / "venv", tmp_path / "rendered"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "checkov"], check=True, cwd=tmp_path)
    rendered.mkdir()
    for name, values in RELEASES.items():
        (rendered / f"{name}.yaml").write_text(yaml.safe_dump_all(render(values).manifests), encoding="utf-8")

    scan = [str(environment / "bin" / "checkov"), "--directory", str(rendered), "--framework", "kubernetes"]
    flags = ["--skip-download", "--quiet", "--compact", "--output", "json", "--soft-fail"]
    told = subprocess.run([*scan, *flags], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    report = json.loads(told)
    found = {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}
    reasons = CHECK.findall(REASONS.read_text(encoding="utf-8"))

    assert report["summary"]["passed"] > 100 * len(RELEASES)
    assert sorted({check for check, _ in found}) == sorted(reasons), sorted(found)
