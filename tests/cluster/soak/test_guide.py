"""docs/guides/kubernetes.md as a platform engineer follows it: its commands, from no namespace to the second night."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import CHART, merged
from tests.cluster.access import Cluster, report
from tests.cluster.conftest import remove
from tests.cluster.locations import Location, check_outputs
from tests.cluster.release import TOOL, Release, base_values
from tests.s3.data import BROKEN, upload

PAGE = CHART.parents[1] / "docs" / "guides" / "kubernetes.md"
MODEL = CHART.parents[1] / "job" / "demo_artifact"
NAMESPACE, SECOND_NIGHT = "garage", "day2/"


def blocks(heading: str, kind: str = "") -> list[str]:
    """Code blocks of a section of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    return [text for marked, text in found if marked == kind]


@pytest.fixture
def follow(cluster: Cluster, tmp_path: Path) -> Callable[[str, str], None]:
    """Runs the commands of a section for a namespace, but those that make and push images."""
    (tmp_path / "charts").symlink_to(CHART.parent)

    def followed(heading: str, namespace: str) -> None:
        for block in blocks(heading):
            for command in re.sub(r"\\\n\s*", " ", block).splitlines():
                if command.startswith(("make ", "docker ")):
                    continue
                typed = re.sub(rf"\b{NAMESPACE}\b", namespace, command)
                path = f"{TOOL.parent}{os.pathsep}{os.environ['PATH']}"
                done = subprocess.run(
                    ["bash", "-c", typed], cwd=tmp_path, env={**os.environ, "PATH": path},
                    capture_output=True, text=True, timeout=600, check=False,
                )  # fmt: skip
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                report(command[:70], namespace)

    return followed


@pytest.mark.slow
def test_the_page_leads_to_the_second_night(
    cluster: Cluster,
    base: Location,
    inputs: dict[str, bytes],
    quiet: dict[str, bytes],
    tmp_path: Path,
    follow: Callable[[str, str], None],
) -> None:
    namespace = f"{NAMESPACE}-{secrets.token_hex(2)}"
    location = replace(base, source=f"in-{namespace}", target=f"out-{namespace}")
    release = Release(cluster, namespace, location, tmp_path)
    nights: dict[bool, dict[str, bytes]] = {False: {}, True: {}}
    for key, data in inputs.items():
        if not key.startswith(BROKEN.removesuffix(".json")):
            nights[key.startswith(SECOND_NIGHT)][key] = data
    upload(location, nights[False])

    (page,) = blocks("Install with Helm", "yaml")
    model = {"model": {"uri": f"s3://{base.name}/model"}}
    for path in MODEL.iterdir():
        cluster.server.files().pipe_file(f"{base.name}/model/{path.name}", path.read_bytes())
    here = merged(base_values(cluster, location), {"pools": {"gpu": model, "cpu": model}})
    del here["s3"]["existingSecret"]
    release.file(merged(yaml.safe_load(page), here))
    try:
        follow("Install with Helm", namespace)
        first = release.run
        follow("Follow the run", namespace)
        assert location.end(first) is not None
        upload(location, nights[True])
        follow("The second night", namespace)
        assert release.run.startswith("night-2-")
        end = location.end(release.run)
        assert end is not None
        assert end.annotated == len(nights[True]) // 2
        check_outputs(location, quiet)
    finally:
        remove(cluster, namespace)
