"""Files too large for memory on S3: range requests and multipart uploads."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from export.locations import local_output
from job.errors import ArtifactError, ObjectMissingError, UsageError
from job.model.artifact import open_artifact
from job.model.cache import open_remote_model
from job.storage.download import download
from job.storage.open import open_store
from tests.fakes import DEMO_ARTIFACT
from tests.s3.fixtures import Bucket
from tests.s3.servers import S3Server


def test_ranges_of_an_object_are_read(bucket: Bucket) -> None:
    store = open_store(bucket.url("deep"), "a", bucket.server.options())
    store.put("x", b"0123456789")

    assert store.read_range("x", 3, 4) == b"3456"
    assert store.read_range("x", 8, 100) == b"89"
    assert store.read_range("x", 10, 1) == store.read_range("x", 99, 1) == b""
    with pytest.raises(ObjectMissingError):
        store.read_range("y", 0, 1)


def test_a_multipart_upload_is_downloaded_unchanged(fast_bucket: Bucket, tmp_path: Path) -> None:
    original, back = tmp_path / "original", tmp_path / "back"
    original.write_bytes(random.Random(1).randbytes(1 << 20) * 101)
    store = open_store(fast_bucket.url("models"), "a", fast_bucket.server.options())
    store.put_file("large", original)
    etag = fast_bucket.server.files().info(f"{fast_bucket.name}/models/large")["ETag"]
    download(store, "large", back)

    assert "-" in etag, "a multipart upload"
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(original.read_bytes()).digest()


def test_an_exported_model_is_uploaded_and_fetched(
    moto: S3Server, new_bucket: Callable[[S3Server], Bucket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    url = new_bucket(moto).url("models/demo")
    with pytest.raises(ArtifactError, match="no model at"):
        open_remote_model(url, None, tmp_path / "cache")
    with local_output(url) as folder:
        folder.symlink_to(DEMO_ARTIFACT)
    digest = open_artifact(DEMO_ARTIFACT).digest
    remote = open_remote_model(url, digest, tmp_path / "cache")
    remote.fetch()

    assert open_artifact(remote.artifact.folder, digest).pinned
    with pytest.raises(UsageError, match="holds a model"), local_output(url):
        raise AssertionError("the existing model was not found at the start")


def test_a_model_in_a_missing_bucket_is_an_error(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArtifactError, match="NoSuchBucket"):
        open_remote_model("s3://nowhere-at-all/model", None, tmp_path)
