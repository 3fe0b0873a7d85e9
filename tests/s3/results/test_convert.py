"""Conversions between buckets: the same bytes as between folders, and no request for an image that is not copied."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import sam3_annotate
from job.cli.main import run as run_cli
from tests.processes import results
from tests.s3.data import store_of, upload
from tests.s3.fixtures import Bucket
from tests.s3.proxy import fault_proxy


@pytest.fixture
def stored(fast_bucket: Bucket, quiet_run: Path) -> Bucket:
    """A bucket with the output of a run, run folder included."""
    upload(fast_bucket, {str(path.relative_to(quiet_run)): path.read_bytes() for path in files_of(quiet_run)}, "out")
    return fast_bucket


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def convert(bucket: Bucket, tmp_path: Path, output: str, dest: str, *flags: str) -> None:
    options = tmp_path / "options.json"
    options.write_text(json.dumps(bucket.server.options()))
    arguments = ["convert", output, dest, *flags, "--output_storage_options", str(options), "--log_level", "ERROR"]
    assert run_cli(arguments) == 0


FORMATS = {
    "coco": ("--to", "coco"),
    "yolo": ("--to", "yolo", "--images", "copy", "--split", "0.7"),
}


@pytest.mark.parametrize("flags", FORMATS.values(), ids=FORMATS)
def test_a_bucket_gets_the_bytes_of_a_folder(
    stored: Bucket, quiet_run: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    convert(stored, tmp_path, stored.url("out"), stored.url("dest"), *flags)
    store = store_of(stored, "dest")
    found = {item.key: store.read(item.key) for item in store.list()}
    assert run_cli(["convert", str(quiet_run), str(tmp_path / "dest"), *flags, "--log_level", "ERROR"]) == 0
    expected = results(tmp_path / "dest")
    assert found == expected


def test_tables_are_read_and_no_image(stored: Bucket, tmp_path: Path) -> None:
    with fault_proxy(stored.server) as proxy:
        seen = Bucket(proxy.server, stored.name)
        convert(seen, tmp_path, seen.url("out"), str(tmp_path / "dest"), "--to", "coco")
        kinds = Counter(proxy.requests)
    tables = [item.key for item in store_of(stored, "out").list("_sam3") if "/instances/" in item.key]
    journals = [item.key for item in store_of(stored, "out").list("_sam3") if "/journal/" in item.key]
    assert kinds["GET"] <= len(tables) + len(journals) + 2, "run.json, and the parts of table and journal"


def test_results_of_a_bucket_are_those_of_a_folder(stored: Bucket, quiet_run: Path) -> None:
    remote = sam3_annotate.open_results(stored.url("out"), storage_options=stored.server.options())
    for one, other in zip(remote, sam3_annotate.open_results(quiet_run), strict=True):
        assert (one.key, one.to_coco()) == (other.key, other.to_coco())
