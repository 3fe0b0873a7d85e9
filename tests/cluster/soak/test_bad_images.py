"""Unreadable images, and one that crashes its worker."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from job.worker.shards import marked_shards, read_marker
from tests.chart.rendering import Values, merged
from tests.cluster.access import Cluster, has_condition, report
from tests.cluster.locations import check_outputs
from tests.cluster.release import Release, base_values, only
from tests.processes import quiet_results
from tests.s3.data import make_inputs, the_run, upload

COUNT = 40
POISON = b"poison"
CRASH = f"""
import ctypes
from job.pipeline import stages

decode = stages.decode_for_model

def deadly(image, side):
    if image.endswith({POISON!r}):
        ctypes.string_at(0)
    return decode(image, side)

stages.decode_for_model = deadly
"""
"""Python's `sitecustomize`: a decoder that one picture crashes, as a bug in a codec would."""

CRASHING: Values = {
    "extraEnv": [{"name": "PYTHONPATH", "value": "/crash"}],
    "extraVolumes": [{"name": "crash", "configMap": {"name": "crash"}}],
    "extraVolumeMounts": [{"name": "crash", "mountPath": "/crash"}],
    "worker": {"imageTimeoutSeconds": 5},
}


@pytest.mark.slow
def test_an_image_that_kills_pods_ends_as_a_failed_row(
    cluster: Cluster, release: Release, scenes: Path, tmp_path: Path
) -> None:
    location = dataclasses.replace(release.location, source=f"{release.namespace}-in")
    release = dataclasses.replace(release, location=location)
    inputs = make_inputs(scenes, COUNT)
    picture = next(data for key, data in inputs.items() if key.startswith("day0/") and key.endswith(".jpg"))
    upload(location, {**inputs, "day1/deadly.jpg": picture + POISON, "day1/deadly.json": b"{}"})
    cluster.core.create_namespaced_config_map(
        release.namespace, {"metadata": {"name": "crash"}, "data": {"sitecustomize.py": CRASH}}
    )
    release.install(merged(base_values(cluster, location), only("cpu"), CRASHING))
    release.wait_for_end(300)

    end, totals = location.end(release.run), Counter[str]()
    run = the_run(location, release.run)
    for shard in marked_shards(run):
        totals.update(read_marker(run, shard).totals)
    assert end is not None
    assert (end.outcome, end.annotated, end.failed) == ("succeeded", COUNT, 2)
    assert totals == {"annotated": COUNT, "failed": 2}
    check_outputs(location, quiet_results(inputs, tmp_path / "local"))
    release.wait_for(lambda: has_condition(release.job("cpu"), "Complete"), 60, "Job complete")
    job = release.job("cpu")
    deaths = [code for code in release.codes() if code]
    report(f"pods that died: {deaths}", release.namespace)
    assert set(deaths) == {139}
    assert not job.status.failed_indexes
    assert len(deaths) == job.status.failed <= 4 < job.spec.backoff_limit_per_index
