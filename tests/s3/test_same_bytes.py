"""Runs on a local folder and on real S3 servers write the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import DATE, quiet_results, results
from tests.s3.data import make_inputs, outputs, upload
from tests.s3.fixtures import Bucket
from tests.s3.workers import pods, run_to_end

FLAGS = ("--annotation_date", DATE, "--threads", "1", "--workers", "2")


@pytest.fixture(scope="module", params=[200, pytest.param(500, marks=pytest.mark.slow)])
def inputs(scenes: Path, request: pytest.FixtureRequest) -> dict[str, bytes]:
    return make_inputs(scenes, request.param)


@pytest.fixture(scope="module")
def local(inputs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return quiet_results(inputs, tmp_path_factory.mktemp("local"), "--workers", "2")


def test_images_on_s3_have_the_bytes_of_a_local_run(
    bucket: Bucket, inputs: dict[str, bytes], local: dict[str, bytes], tmp_path: Path
) -> None:
    upload(bucket, inputs)
    pod = pods(tmp_path, bucket, bucket.server, "same", {"gpu": 1}, "--workers", "1")[0]
    run_to_end([pod])
    assert pod.codes == [0]
    assert len(local) == 3 * (sum(key.endswith(".json") for key in inputs) - 1), "all but the broken one"
    assert outputs(bucket) == local


def test_a_bucket_to_a_folder_and_back_keeps_the_bytes(
    fast_bucket: Bucket, inputs: dict[str, bytes], local: dict[str, bytes], tmp_path: Path
) -> None:
    few = {key: data for key, data in inputs.items() if key.startswith("day1/0000")}
    upload(fast_bucket, few)
    environment = fast_bucket.server.environment()
    command = [sys.executable, "-m", "job", "annotate", "--annotation_date", DATE, "--threads", "1", "--device", "cpu"]
    folder = str(tmp_path / "out")
    for source, target in ((fast_bucket.url("in"), folder), (folder, fast_bucket.url("back"))):
        flags = ["--input_top_dir", source, "--out_top_dir", target]
        subprocess.run([*command, *flags], env={**dict(os.environ), **environment}, check=True, capture_output=True)
    wanted = {key: data for key, data in local.items() if key.startswith("day1/0000")}
    assert results(tmp_path / "out") == wanted
    assert outputs(fast_bucket, "back") == wanted, "an output can be the next input"
