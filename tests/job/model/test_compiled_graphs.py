"""The cache of compiled graphs: published whole, checked before use, never an error."""

from __future__ import annotations

import os
import time
from collections import namedtuple
from pathlib import Path

import pytest

from job.model.openvino_runtime import compiled_graphs as module
from job.model.openvino_runtime.compiled_graphs import CompiledKey, compiled_graphs

KEY = CompiledKey(artifact="a", runtime="openvino 1", instruction_set="x", threads=1)


def compile_into(cache: Path, data: bytes = b"graph", key: CompiledKey = KEY) -> Path | None:
    with compiled_graphs(cache, key, [5]) as folder:
        if folder is not None and not (folder / "1.blob").exists():
            (folder / "1.blob").write_bytes(data)
        return folder


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "openvino").iterdir())


def test_what_one_process_compiles_the_next_one_loads(tmp_path: Path) -> None:
    first = compile_into(tmp_path)
    assert first is not None
    assert folders(tmp_path) == [KEY.folder_name]
    with compiled_graphs(tmp_path, KEY, [5]) as folder:
        assert folder == tmp_path / "openvino" / KEY.folder_name
        assert (folder / "1.blob").read_bytes() == b"graph"


@pytest.mark.parametrize(
    "changes", [{"artifact": "b"}, {"runtime": "openvino 2"}, {"instruction_set": "y"}, {"threads": 2}]
)
def test_another_model_library_processor_or_number_of_threads_is_another_folder(
    tmp_path: Path, changes: dict[str, str | int]
) -> None:
    fields = {name: getattr(KEY, name) for name in KEY.__struct_fields__}
    compile_into(tmp_path)
    compile_into(tmp_path, key=CompiledKey(**(fields | changes)))
    assert len(folders(tmp_path)) == 2


def flip(blob: Path) -> None:
    blob.write_bytes(b"grapH")


def cut(blob: Path) -> None:
    blob.write_bytes(b"gra")


def add(blob: Path) -> None:
    blob.with_name("2.blob").write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, cut, add, Path.unlink, lambda blob: (blob.parent / "files.json").unlink()])
def test_a_damaged_folder_is_made_again(tmp_path: Path, damage: object) -> None:
    compile_into(tmp_path)
    complete = tmp_path / "openvino" / KEY.folder_name
    assert callable(damage)
    damage(complete / "1.blob")
    again = compile_into(tmp_path, b"again")
    assert again != complete
    assert sorted(path.name for path in complete.iterdir()) == ["1.blob", "files.json"]
    assert (complete / "1.blob").read_bytes() == b"again"


def test_a_failed_compilation_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path | None) -> None:
        assert folder is not None
        (folder / "1.blob").write_bytes(b"half")
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"), compiled_graphs(tmp_path, KEY, [5]) as folder:
        fail(folder)
    assert folders(tmp_path) == []


def test_two_processes_may_compile_at_the_same_time(tmp_path: Path) -> None:
    with compiled_graphs(tmp_path, KEY, [5]) as slow:
        assert slow is not None
        compile_into(tmp_path, b"fast")
        (slow / "1.blob").write_bytes(b"slow")
    assert folders(tmp_path) == [KEY.folder_name]
    assert (tmp_path / "openvino" / KEY.folder_name / "1.blob").read_bytes() == b"fast"


def test_folders_of_stopped_processes_are_removed_and_those_at_work_stay(tmp_path: Path) -> None:
    old, new = (tmp_path / "openvino" / f"{name}.partial" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    compile_into(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_full_disk_and_an_unusable_cache_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert compile_into(tmp_path / "file") is None
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    assert compile_into(tmp_path / "cache") is None


def test_a_user_without_a_home_folder_compiles_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(module, "default_cache", no_home)
    with compiled_graphs(None, KEY, [5]) as folder:
        assert folder is None


def test_a_set_that_could_not_be_written_whole_is_not_kept(tmp_path: Path) -> None:
    with compiled_graphs(tmp_path, KEY, [5, 5]) as folder:
        assert folder is not None
        (folder / "1.blob").write_bytes(b"graph")
    assert folders(tmp_path) == []
