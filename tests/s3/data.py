"""Inputs in buckets, and checks of the outputs of a run."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from job.run.journal import ANNOTATED, FAILED
from job.run.run import Run, find_named, newest_run
from job.storage.object_store import ObjectStore
from job.storage.s3 import S3Driver
from job.tools.audit import AuditCounts, Finding
from job.tools.audit_deep import audit
from job.worker.shards import marked_shards, read_marker
from tests.s3.fixtures import Bucket
from tests.tables import check_tables

BROKEN = "broken.json"


def make_inputs(scenes: Path, count: int) -> dict[str, bytes]:
    """`count` inputs from a few scenes, in folders, and one broken input."""
    originals = sorted(scenes.rglob("*.json"))
    files = {BROKEN: b"{", "broken.jpg": b"no picture"}
    for number in range(count):
        original = originals[number % len(originals)]
        for suffix in (".json", ".jpg"):
            files[f"day{number % 3}/{number:05d}{suffix}"] = original.with_suffix(suffix).read_bytes()
    return files


def store_of(bucket: Bucket, folder: str) -> ObjectStore:
    return ObjectStore(S3Driver(bucket.url(folder), bucket.server.options()), "tester")


def upload(bucket: Bucket, files: dict[str, bytes], folder: str = "in") -> None:
    store = store_of(bucket, folder)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store.put(*item), files.items()))


def outputs(bucket: Bucket, folder: str = "out") -> dict[str, bytes]:
    """Every object of the output except those of `_sam3/`."""
    store = store_of(bucket, folder)
    keys = [item.key for item in store.list(skip="_sam3")]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(keys, pool.map(store.read, keys), strict=True))


def private_keys(bucket: Bucket) -> list[str]:
    """Keys of the objects of `_sam3/`."""
    return [item.key for item in store_of(bucket, "out").list("_sam3")]


def the_run(bucket: Bucket, name: str) -> Run:
    return find_named(store_of(bucket, "out"), name)


def check_complete(bucket: Bucket, name: str, inputs: int, failed: tuple[str, ...] = (BROKEN,)) -> None:
    """Check that every input is either annotated or failed, that the run has one end and that no object is stray."""
    check_accounts(bucket, name, inputs, failed)
    check_audit(bucket, inputs, failed)


def check_accounts(bucket: Bucket, name: str, inputs: int, failed: tuple[str, ...]) -> None:
    """Check the records of the run: one result for each input, one end."""
    run = the_run(bucket, name)
    totals: Counter[str] = Counter()
    for shard in marked_shards(run):
        totals.update(read_marker(run, shard).totals)
    assert dict(totals) == {ANNOTATED: inputs - len(failed), FAILED: len(failed)}
    end = run.end()
    assert end is not None
    assert (end.outcome, end.annotated, end.failed) == ("succeeded", inputs - len(failed), len(failed))
    assert end.inputs_listed == inputs
    assert [row["json"] for row in failure_rows(bucket, name)] == list(failed)
    assert not [key for key in private_keys(bucket) if key.startswith("_sam3/tmp/")]


def failure_rows(bucket: Bucket, name: str) -> list[dict[str, str]]:
    """Failed inputs of a run with their reasons."""
    run = the_run(bucket, name)
    return [json.loads(line) for line in run.store.read(run.key("failures.jsonl")).splitlines()]


def check_audit(bucket: Bucket, inputs: int, failed: tuple[str, ...]) -> None:
    """Every image has its instances once, and a deep audit, with and without the records of the run, finds nothing."""
    assert len(check_tables(store_of(bucket, "out"))) == inputs - len(failed)
    counts = AuditCounts()
    assert [finding.key for finding in findings_of(bucket, counts)] == []
    assert (counts.inputs, counts.annotated) == (inputs, inputs - len(failed))
    target = store_of(bucket, "out")
    run = newest_run(target)
    kept = {item.key: target.read(item.key) for folder in ("done", "journal") for item in target.list(run.key(folder))}
    for key in kept:
        target.delete(key)
    assert [finding.key for finding in findings_of(bucket)] == []
    for key, data in kept.items():  # an image that fails in a later run has its rows in this one
        target.put(key, data)


def findings_of(bucket: Bucket, counts: AuditCounts | None = None) -> list[Finding]:
    """Findings of a deep audit, except failed inputs."""
    source, target = store_of(bucket, "in"), store_of(bucket, "out")
    found = audit(source, target, newest_run(target).spec, counts or AuditCounts(), deep=True)
    return [finding for finding in found if finding.kind != "failed"]
