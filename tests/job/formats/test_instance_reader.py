"""Reading an output's instances: every image once, from the rows that belong to the stored mask."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from job.formats import instance_reader
from job.formats.instance_reader import AnnotatedImage, read_instances
from job.formats.instance_table import decode_part, encode_rows
from job.formats.mask_npz import mask_facts
from job.run.instance_parts import part_key
from job.run.journal import FAILED, ResultRow, ShardJournal, read_history
from job.run.options import WorkerOptions
from job.run.run import Run, find_named
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import request_of, use_fake_session, write_inputs
from tests.job.tools.test_audit_deep import VariedSession

KEYS = [f"{number:05d}.json" for number in range(6)]


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> VariedSession:
    session = VariedSession()
    use_fake_session(monkeypatch, session)
    return session


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "in", 6)
    return tmp_path / "in"


def annotated(source: Path, target: Path, name: str = "one", **changes: object) -> Path:
    options = WorkerOptions(device="cpu", shard_size=3)
    annotate(request_of(source, target, run_name=name, options=options, **changes), Tally())
    return target


@pytest.fixture
def target(source: Path, tmp_path: Path) -> Path:
    """Six annotated images in two shards."""
    return annotated(source, tmp_path / "out")


def images(target: Path) -> list[AnnotatedImage]:
    found = list(read_instances(LocalStore(target, "reader")))
    assert [image.key for image in found] == sorted({image.key for image in found})
    return found


def scores(target: Path) -> list[float | None]:
    return [round(row.score or 0, 3) for image in images(target) for row in image.rows]


def run_of(target: Path, name: str = "one") -> Run:
    return find_named(LocalStore(target, "x"), name)


def shard_of(run: Run, key: str) -> str:
    shards = run.store.list_dirs(run.key("journal"))
    return next(shard for shard in shards if key in read_history(run, shard).results)


def test_every_image_has_its_rows_once_in_the_order_of_keys(target: Path) -> None:
    found = images(target)
    assert [image.key for image in found] == KEYS
    for image in found:
        assert [row.json for row in image.rows] == [image.key]
        assert image.rows[0].image == image.key.replace(".json", ".jpg")
        assert image.result is not None
        assert not image.is_visible_only
        assert not image.problem


def test_parts_that_no_journal_row_names_do_not_count(target: Path) -> None:
    """A kill between a part of the table and the part of the journal, and a second process that annotates again."""
    run = run_of(target)
    for shard in run.store.list_dirs(run.key("instances")):
        part = next(iter(run.store.list(run.key("instances", shard))))
        run.store.put(part_key(run, shard, "killed-1"), run.store.read(part.key))
    assert [len(image.rows) for image in images(target)] == [1] * 6


def test_rows_of_the_newest_run_that_annotated_an_image_count(
    source: Path, target: Path, session: VariedSession
) -> None:
    session.score = 0.8
    annotated(source, target, "two", override=True, limit=2)
    assert scores(target) == [0.8, 0.8, 0.9, 0.9, 0.9, 0.9]


def test_a_failure_in_a_newer_run_leaves_the_older_rows(source: Path, target: Path, session: VariedSession) -> None:
    session.score = 0.8
    annotated(source, target, "two", override=True, limit=1)
    run = run_of(target, "two")
    shard = shard_of(run, "00000.json")
    shutil.rmtree(target / run.key("journal"))
    journal = ShardJournal(run, shard, "w")
    journal.add(ResultRow(json="00000.json", result=FAILED, reason="broken"))
    journal.write()
    assert scores(target) == [0.9] * 6


@pytest.mark.parametrize("stored", ["one", "other"])
def test_of_two_pools_the_rows_of_the_stored_mask_count(
    source: Path, target: Path, session: VariedSession, tmp_path: Path, stored: str
) -> None:
    """Each pool has a row of the image; the later pair of mask and JSON stays."""
    session.score = 0.8
    write_inputs(tmp_path / "darker", 6)
    shutil.copy(source / "00003.jpg", tmp_path / "darker" / "00002.jpg")
    other = annotated(tmp_path / "darker", tmp_path / "other")
    run, second = run_of(target), run_of(other)
    shard = shard_of(run, "00002.json")
    row = read_history(second, shard).results["00002.json"]
    part = decode_part(second.store.read(part_key(second, shard, row.instances)))
    journal = ShardJournal(run, shard, "cpu")
    journal.add(row, encode_rows([one for one in part if one.json == row.json]))
    journal.write()
    if stored == "other":
        for suffix in (".npz", ".json"):
            shutil.copy(other / f"00002{suffix}", target)
    assert scores(target) == [0.9, 0.9, 0.8 if stored == "other" else 0.9, 0.9, 0.9, 0.9]
    image = images(target)[2]
    assert image.result is not None
    assert image.result.mask_sha256 == mask_facts((target / "00002.npz").read_bytes()).sha256


def visible_only(target: Path) -> list[str]:
    return [image.key for image in images(target) if image.is_visible_only]


def test_an_image_without_a_row_is_read_from_its_files_alone(source: Path, target: Path) -> None:
    whole = {image.key: image.rows for image in images(target)}
    run = run_of(target)
    shutil.rmtree(target / run.key("journal", shard_of(run, "00000.json")))
    assert visible_only(target) == KEYS[:3]
    for image in images(target):
        row, before = image.rows[0], whole[image.key][0]
        assert (row.class_name, row.value, row.box, row.rle) == ("car", 255, before.box, before.rle)
        assert (row.image, row.camera) == (before.image, "entry1")


def test_an_output_without_its_private_folder_is_read_from_its_files(target: Path) -> None:
    shutil.rmtree(target / "_sam3")
    assert visible_only(target) == KEYS
    (target / "00001.jpg").rename(target / "00001.JPEG")
    (target / "00002.jpg").unlink()
    assert [image.rows[0].image for image in images(target)[:3]] == ["00000.jpg", "00001.JPEG", "00002.jpg"]


def test_an_output_of_a_run_without_tables_is_read_from_its_files(source: Path, tmp_path: Path) -> None:
    assert visible_only(annotated(source, tmp_path / "plain", instances="none")) == KEYS


def test_images_of_a_missing_or_damaged_part_are_read_from_their_files(
    target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(target)
    first, second = (
        part
        for shard in run.store.list_dirs(run.key("instances"))
        for part in run.store.list(run.key("instances", shard))
    )
    run.store.delete(first.key)
    run.store.put(second.key, run.store.read(second.key)[:-20])
    assert visible_only(target) == KEYS
    warnings = [message for message in caplog.messages if "their visible masks" in message]
    assert len(warnings) == 2
    assert all(".jsonl.gz cannot be read (" in message for message in warnings)


def test_an_image_that_cannot_be_read_has_a_problem_and_the_others_are_read(target: Path) -> None:
    shutil.rmtree(target / "_sam3")
    (target / "00001.npz").write_bytes(b"PK")
    (target / "00002.npz").unlink()
    (target / "00003.json").write_text("{}")
    (target / "note.json").write_text("[]")
    problems = {image.key: image.problem for image in images(target) if image.problem}
    assert sorted(problems) == ["00001.json", "00002.json", "00003.json", "note.json"]
    assert "NPZ" in problems["00001.json"]
    assert "no annotation" in problems["00003.json"]
    assert all(not image.rows for image in images(target) if image.problem)


def test_a_json_without_annotation_and_npz_is_no_annotated_image(target: Path) -> None:
    """An input that is not annotated yet, in a folder that is input and output, is not damaged."""
    shutil.rmtree(target / "_sam3")
    (target / "00001.npz").unlink()
    (target / "00001.json").write_text('{"source": {"camera": "entry1"}}')
    (target / "00002.npz").unlink()
    found = {image.key: image.is_annotated for image in images(target) if image.problem}
    assert found == {"00001.json": False, "00002.json": True}


class CountingStore(LocalStore):
    """Counts reads of parts and of files outside the private folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "counter")
        self.parts: list[str] = []
        self.files: list[str] = []

    def read(self, key: str) -> bytes:
        if "/instances/" in key:
            self.parts.append(key)
        elif not key.startswith("_sam3/"):
            self.files.append(key)
        return super().read(key)


def test_parts_are_read_once_and_files_of_images_not_at_all(target: Path) -> None:
    store = CountingStore(target)
    assert len(list(read_instances(store))) == 6
    assert len(store.parts) == len(set(store.parts)) == 2
    assert store.files == []


def test_few_parts_stay_in_memory(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_reader, "_MIN_CACHED_PARTS", 1)
    monkeypatch.setattr(instance_reader, "_CACHED_BYTES", 0)
    run = run_of(target)
    parts = instance_reader.InstanceParts()
    for shard in run.store.list_dirs(run.key("journal")):
        for row in read_history(run, shard).results.values():
            assert [one.json for one in parts.rows_of(run, shard, row)] == [row.json]
            assert len(parts._parts) == 1
    assert scores(target) == [0.9] * 6


def test_images_that_are_not_wanted_are_not_read(target: Path) -> None:
    store = CountingStore(target)
    found = list(read_instances(store, lambda key: key == "00004.json"))
    assert [image.key for image in found] == ["00004.json"]
    assert len(store.parts) == 1


def test_the_orientation_of_an_image_without_rows_is_that_of_its_file(source: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8)
    Image.fromarray(noise).save(source / "00002.jpg", quality=95, exif=exif)
    assert (source / "00002.jpg").stat().st_size > instance_reader._HEADER_BYTES
    target = annotated(source, tmp_path / "out")
    assert [image.rows[0].orientation for image in images(target)] == [1, 1, 6, 1, 1, 1]
    shutil.rmtree(target / "_sam3")
    assert [image.rows[0].orientation for image in images(target)] == [1, 1, 6, 1, 1, 1]
    (target / "00002.jpg").write_bytes(b"no image")
    assert [image.rows[0].orientation for image in images(target)] == [1] * 6
