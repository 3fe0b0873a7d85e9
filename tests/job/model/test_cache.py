"""A model at a URL: fetched once, verified, resumed after an interruption, used only when complete."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import job.storage.download
import job.storage.retry
from job.errors import ArtifactError, ConfigurationError, CredentialsRefusedError
from job.model.artifact import MANIFEST_NAME, decode_manifest, encode_manifest, file_entry, open_artifact
from job.model.cache import RemoteModel, default_cache, local_path, open_remote_model, remote_url
from tests.fakes import DEMO_ARTIFACT
from tests.processes import annotate
from tests.web import Web, served

LARGE = "image_encoder.onnx"
LARGE_BYTES, PART_BYTES = 1_000_003, 100_000

FETCH = (
    "import sys, job.storage.download; from pathlib import Path; from job.model.cache import open_remote_model; "
    f"job.storage.download.PART_BYTES = {PART_BYTES}; open_remote_model(sys.argv[1], None, Path(sys.argv[2])).fetch()"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An artifact whose graphs are noise: one file of many parts, one of a single byte."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / LARGE).write_bytes(random.Random(7).randbytes(LARGE_BYTES))
    for name in ("grounding.onnx", "text_encoder.onnx", "tokenizer.json"):
        (folder / name).write_bytes(name[:1].encode())
    manifest = msgspec.structs.replace(
        open_artifact(DEMO_ARTIFACT).manifest, files={path.name: file_entry(path) for path in folder.iterdir()}
    )
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return folder


@pytest.fixture
def web(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(job.storage.download, "PART_BYTES", PART_BYTES)
    with served(model) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


def opened(web: Web, cache: Path, digest: str | None = None) -> RemoteModel:
    return open_remote_model(web.url, digest, cache)


def process(web: Web, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", FETCH, web.url, str(cache)], stderr=subprocess.PIPE, text=True)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def partial_of(remote: RemoteModel) -> Path:
    return remote.artifact.folder.with_name(f"{remote.artifact.digest}.partial") / f"{LARGE}.partial~"


def test_a_model_is_fetched_in_parts_and_once(web: Web, model: Path, cache: Path) -> None:
    steps: list[None] = []
    remote = opened(web, cache)
    assert web.asked == [MANIFEST_NAME], "nothing else before it is needed"
    remote.fetch(lambda: steps.append(None))

    assert content(remote.artifact.folder) == content(model)
    assert remote.artifact.folder == cache / hashlib.sha256((model / MANIFEST_NAME).read_bytes()).hexdigest()
    assert web.asked.count(LARGE) == 11
    assert len(steps) == 11 + 3
    opened(web, cache).fetch()
    assert web.sent[LARGE] == LARGE_BYTES


def test_another_process_resumes_a_killed_download(web: Web, model: Path, cache: Path) -> None:
    web.hold_after = (LARGE, 4 * PART_BYTES)
    killed = process(web, cache)
    assert web.held.wait(30)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not opened(web, cache).artifact.folder.exists()
    web.hold_after = None
    web.go_on.set()
    web.sent.clear()
    remote = opened(web, cache)
    assert partial_of(remote).stat().st_size == 4 * PART_BYTES
    remote.fetch()

    assert web.sent[LARGE] in {LARGE_BYTES - 4 * PART_BYTES, LARGE_BYTES - 3 * PART_BYTES}, "the held part may land"
    assert content(remote.artifact.folder) == content(model)


def test_one_of_two_processes_fetches(web: Web, model: Path, cache: Path) -> None:
    web.hold_after = (LARGE, PART_BYTES)
    both = [process(web, cache), process(web, cache)]
    assert web.held.wait(30)
    web.go_on.set()

    assert [one.communicate()[1] for one in both] == ["", ""]
    assert [one.returncode for one in both] == [0, 0]
    assert web.sent[LARGE] == LARGE_BYTES
    assert content(opened(web, cache).artifact.folder) == content(model)


def test_another_process_fetches_after_the_lock_holder_dies(web: Web, model: Path, cache: Path) -> None:
    web.hold_after = (LARGE, PART_BYTES)
    first = process(web, cache)
    assert web.held.wait(30)
    second = process(web, cache)
    first.kill()
    first.communicate()
    web.hold_after = None
    web.go_on.set()

    assert second.communicate()[1] == ""
    assert content(opened(web, cache).artifact.folder) == content(model)


def test_a_damaged_partial_file_is_fetched_again(web: Web, model: Path, cache: Path) -> None:
    remote = opened(web, cache)
    partial_of(remote).parent.mkdir(parents=True)
    partial_of(remote).write_bytes(b"x" * 3 * PART_BYTES)
    remote.fetch()

    assert content(remote.artifact.folder) == content(model)
    assert web.sent[LARGE] == 2 * LARGE_BYTES - 3 * PART_BYTES


@pytest.mark.parametrize("damage", [b"", b"x", b"x" * (LARGE_BYTES + 1)], ids=["empty", "short", "long"])
def test_a_model_that_is_damaged_at_its_source_is_refused(web: Web, model: Path, cache: Path, damage: bytes) -> None:
    (model / LARGE).write_bytes(damage)
    remote = opened(web, cache)
    with pytest.raises(ArtifactError, match=rf"model file {web.url}/{LARGE} is damaged: .* Copy the model there again"):
        remote.fetch()
    assert not remote.artifact.folder.exists()
    assert not partial_of(remote).exists()


def test_a_damaged_copy_in_the_cache_is_replaced(web: Web, model: Path, cache: Path) -> None:
    remote = opened(web, cache)
    remote.fetch()
    (remote.artifact.folder / LARGE).write_bytes(b"x")
    remote.fetch()
    assert content(remote.artifact.folder) == content(model)


def test_a_complete_copy_in_a_read_only_cache_is_used(web: Web, cache: Path) -> None:
    opened(web, cache).fetch()
    for lock in cache.glob("*.lock"):
        lock.unlink()
    opened(web, cache).fetch()
    assert list(cache.glob("*.lock")) == [], "nothing was written"


def test_a_model_with_another_digest_is_refused_before_the_fetch(web: Web, cache: Path) -> None:
    with pytest.raises(ArtifactError, match="but --model_digest asks for 000"):
        opened(web, cache, "0" * 64)
    assert web.asked == [MANIFEST_NAME]
    digest = opened(web, cache).artifact.digest
    assert opened(web, cache, digest.upper()).artifact.pinned
    assert not opened(web, cache).artifact.pinned


def test_a_missing_model_is_refused(web: Web, model: Path, cache: Path) -> None:
    with pytest.raises(ArtifactError, match=f"no model at {web.url}/nothing"):
        open_remote_model(f"{web.url}/nothing", None, cache)
    (model / LARGE).unlink()
    with pytest.raises(ArtifactError, match="or an incomplete one"):
        opened(web, cache).fetch()


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/b", "a\\b", "", "..", ".hidden", "manifest.json", "é", "a\n", "a~"]
)
def test_a_file_name_outside_the_folder_is_refused(web: Web, model: Path, cache: Path, name: str) -> None:
    manifest = decode_manifest((model / MANIFEST_NAME).read_bytes(), "here")
    entry = manifest.files[LARGE]
    spoilt = (
        msgspec.structs.replace(manifest, files={**manifest.files, name: entry}),
        msgspec.structs.replace(manifest, grounding=msgspec.structs.replace(manifest.grounding, file=name)),
    )
    for each in spoilt:
        (model / MANIFEST_NAME).write_bytes(encode_manifest(each))
        with pytest.raises(ArtifactError, match="names the file"):
            opened(web, cache)


def test_requests_to_an_unavailable_server_are_retried(web: Web, cache: Path) -> None:
    web.refusals = [503, 429, 500]
    opened(web, cache).fetch()
    assert web.asked.count(MANIFEST_NAME) == 4


def test_rejected_credentials_are_retried_until_the_timeout(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job.storage.retry, "CREDENTIALS_TIMEOUT_S", 0.3)
    web.refusals = [401] * 50
    with pytest.raises(CredentialsRefusedError, match="check the credentials"):
        opened(web, cache)


@pytest.mark.parametrize("status", [403, 405, 501])
def test_a_forbidden_model_is_refused_without_retries(web: Web, cache: Path, status: int) -> None:
    web.refusals = [status]
    with pytest.raises(ArtifactError, match="may not be read"):
        opened(web, cache)


def test_a_server_without_range_requests_is_named(web: Web, cache: Path) -> None:
    web.has_ranges = False
    with pytest.raises(ConfigurationError, match="does not support range requests"):
        opened(web, cache).fetch()


def test_an_unwritable_cache_is_a_configuration_error(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="Give --model_cache a folder that can be written"):
        opened(web, tmp_path / "file").fetch()


def test_a_model_is_fetched_with_any_fsspec_driver(model: Path, cache: Path) -> None:
    files = MemoryFileSystem()
    files.put(f"{model}/", "/models/one/", recursive=True)
    try:
        remote = open_remote_model("memory://models/one", None, cache)
        remote.fetch()
    finally:
        files.rm("/models", recursive=True)
    assert content(remote.artifact.folder) == content(model)


def test_a_local_model_is_not_copied() -> None:
    assert remote_url("/a/b") is remote_url("a/b") is remote_url("file:///a/b") is None
    assert local_path("file:///a/b") == Path("/a/b")
    assert remote_url("s3://bucket/model/") == "s3://bucket/model"


def test_the_default_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == Path.home() / ".cache" / "sam3-annotate" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_cache() == Path("/elsewhere/sam3-annotate/models")


def test_annotate_fetches_the_model_only_if_work_remains(scenes: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for path in sorted(scenes.rglob("*.json"))[:3]:
        for suffix in (".json", ".jpg"):
            os.link(path.with_suffix(suffix), source / path.with_suffix(suffix).name)
    with served(DEMO_ARTIFACT) as web:
        flags = ("--model", web.url, "--run", "one", "--workers", "2", "--threads", "2")
        first = annotate(source, tmp_path / "out", *flags, "--model_cache", str(tmp_path / "cache"))
        assert first.returncode == 0, first.stderr
        assert web.asked.count("grounding.onnx") == 1, "the parent fetches, its workers do not"
        web.asked.clear()
        again = annotate(source, tmp_path / "out", *flags, "--model_cache", str(tmp_path / "other"))
    assert again.returncode == 0
    assert web.asked == [MANIFEST_NAME]
