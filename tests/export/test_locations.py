"""Checkpoint and model at URLs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from export.checkpoint import demo_checkpoint_path
from export.locations import local_checkpoint, local_output
from job.errors import ConfigurationError, DeviceError, UsageError
from job.model.artifact import MANIFEST_NAME
from job.model.loader import gpu_answers
from tests.export.conftest import run_export
from tests.fakes import DEMO_ARTIFACT
from tests.web import served

URL = "memory://exported/model"


@pytest.fixture
def there() -> Iterator[MemoryFileSystem]:
    files = MemoryFileSystem()
    yield files
    if files.exists("/exported"):
        files.rm("/exported", recursive=True)


def names(there: MemoryFileSystem) -> set[str]:
    return {path.rpartition("/")[2] for path in there.find("/exported/model")}


def test_a_checkpoint_at_a_url_is_downloaded_temporarily() -> None:
    checkpoint = demo_checkpoint_path()
    with served(checkpoint.parent) as web:
        with local_checkpoint(f"{web.url}/{checkpoint.name}") as path:
            assert Path(path).read_bytes() == checkpoint.read_bytes()
        with pytest.raises(UsageError, match="no such file"), local_checkpoint(f"{web.url}/nothing.pt"):
            pass
        web.refusals = [403]
        with pytest.raises(ConfigurationError, match="may not be read"), local_checkpoint(f"{web.url}/x.pt"):
            pass
    assert not Path(path).exists()


@pytest.mark.parametrize("checkpoint", ["demo", "hub", "hub:facebook/sam3.1", "/a/sam3.pt", "a/sam3.pt"])
def test_a_local_checkpoint_is_not_copied(checkpoint: str) -> None:
    with local_checkpoint(checkpoint) as path:
        assert path == checkpoint


def test_a_model_is_uploaded_with_its_manifest_last(there: MemoryFileSystem) -> None:
    there.pipe("/exported/model/grounding.onnx", b"of an export that was ended in the middle")
    with local_output(URL) as folder:
        shutil.copytree(DEMO_ARTIFACT, folder)
        assert MANIFEST_NAME not in names(there)

    assert names(there) == {path.name for path in DEMO_ARTIFACT.iterdir()}
    created = {name: there.created(f"/exported/model/{name}") for name in names(there)}
    assert max(created, key=lambda name: created[name]) == MANIFEST_NAME


def test_a_failed_export_uploads_nothing(there: MemoryFileSystem) -> None:
    def disagree(folder: Path) -> None:
        folder.mkdir()
        (folder / "grounding.onnx").touch()
        raise ConfigurationError("they do not agree")

    with pytest.raises(ConfigurationError, match="do not agree"), local_output(URL) as folder:
        disagree(folder)
    assert names(there) == set()


@pytest.mark.parametrize(("key", "message"), [(MANIFEST_NAME, "holds a model"), ("a.jpg", "something else")])
def test_a_url_in_use_is_refused_before_the_export(there: MemoryFileSystem, key: str, message: str) -> None:
    there.pipe(f"/exported/model/{key}", b"")
    with pytest.raises(UsageError, match=message):
        run_export("--checkpoint", "demo", "--out", URL)


def test_a_web_server_is_refused_as_target(tmp_path: Path) -> None:
    with (
        served(tmp_path) as web,
        pytest.raises(UsageError, match="read-only: give a folder or a bucket"),
        local_output(f"{web.url}/model"),
    ):
        raise AssertionError("found before the work")


@pytest.mark.skipif(gpu_answers(), reason="has a GPU")
@pytest.mark.parametrize(
    ("graph_format", "error"), [("torchscript", DeviceError), ("onnx", ConfigurationError)], ids=["driver", "provider"]
)
def test_unusable_cuda_is_refused_before_the_export(graph_format: str, error: type[Exception], tmp_path: Path) -> None:
    """Without a GPU, torch's driver does not answer; onnxruntime's CPU build has nothing that could."""
    with pytest.raises(error, match="--device cuda: "):
        run_export("--checkpoint", "demo", "--out", tmp_path / "m", "--device", "cuda", "--format", graph_format)
    assert list(tmp_path.iterdir()) == []
