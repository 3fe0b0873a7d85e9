"""Damaged, foreign and mixed pairs, found by reading, with the journal and without; and precedence of runs."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from job.cli.main import run as run_cli
from job.errors import StorageError
from job.formats.mask_npz import to_npz
from job.model.session import Grounding, TextFeatures
from job.plan.plan import shard_name
from job.run.journal import ShardJournal, read_history
from job.run.options import WorkerOptions
from job.run.run import find_named, newest_run
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.tools.audit import AuditCounts
from job.tools.audit_deep import audit
from job.worker.runner import annotate, list_planned
from tests.fakes import FakeSession, request_of, use_fake_session, write_inputs
from tests.processes import results

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class VariedSession(FakeSession):
    """Finds a car whose size depends on the grey of the picture, with a score of its own."""

    score: float = 0.9

    def ground(self, features: NDArray[np.uint8], text: TextFeatures, score_threshold: float) -> tuple[Grounding, ...]:
        found = []
        for pixels in features:
            grey = int(pixels[0, 0, 0])
            logits = np.full((1, 8, 8), -1, np.float32)
            logits[0, 1 : 3 + grey % 5, 1:6] = 1
            scores = np.zeros((3, 4), np.float32)
            scores[0, 1] = self.score
            found.append(Grounding(scores, np.array([[0, 1]], np.int64), logits))
        return tuple(found)


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> VariedSession:
    session = VariedSession()
    use_fake_session(monkeypatch, session)
    return session


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "in", 6)
    return tmp_path / "in"


@pytest.fixture
def target(source: Path, tmp_path: Path) -> Path:
    """Six annotated images."""
    annotate(request_of(source, tmp_path / "out", run_name="one"), Tally())
    return tmp_path / "out"


def found(source: Path, target: Path, *, deep: bool = True) -> list[tuple[str, str]]:
    """Kinds and keys; every input is annotated, failed or has a finding."""
    store, counts = LocalStore(target, "auditor"), AuditCounts()
    findings = list(audit(LocalStore(source, "auditor"), store, newest_run(store).spec, counts, deep=deep))
    assert counts.inputs == counts.annotated + sum(finding.kind != "orphaned" for finding in findings)
    assert Counter(finding.kind for finding in findings) == +counts.findings
    return [(finding.kind, finding.key) for finding in findings]


def edit_entry(json_file: Path, **labels: Any) -> None:
    fields = json.loads(json_file.read_text())
    fields["annotation"]["segmentation"][0]["labels"].update(labels)
    json_file.write_text(json.dumps(fields))


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


MASK = np.zeros((30, 40), np.uint8)
NPZ = {
    "another key": (npz(masks=MASK), "unreadable"),
    "another type": (npz(mask=MASK.astype(np.int32)), "unreadable"),
    "three axes": (npz(mask=MASK[None]), "unreadable"),
    "column by column": (npz(mask=np.asfortranarray(MASK)), "unreadable"),
    "a bare array": (npy(MASK), "unreadable"),
    "pickled": (npz(mask=np.array({"a": 1}, dtype=object)), "unreadable"),
    "no archive": (b"PK and nothing more", "unreadable"),
    "an empty archive": (b"PK\x05\x06" + bytes(18), "unreadable"),
    "upright": (to_npz(MASK.T), "mask_size"),
    "a value too many": (to_npz(MASK + 7), "mask_values"),
    "no instance": (to_npz(MASK), "foreign"),
}


@pytest.mark.parametrize(("raw", "kind"), NPZ.values(), ids=NPZ)
def test_a_replaced_mask_file_is_found(source: Path, target: Path, raw: bytes, kind: str) -> None:
    assert found(source, target) == []
    (target / "00002.npz").write_bytes(raw)
    assert found(source, target) == [(kind, "00002.json")]
    assert found(source, target, deep=False) == []


def test_a_mask_file_with_any_byte_flipped_is_found_or_reads_the_same(source: Path, target: Path) -> None:
    """Some bytes of a ZIP have no effect (a time, an attribute); any error of the reader is a finding."""
    path = target / "00002.npz"
    good = path.read_bytes()
    with np.load(path) as arrays:
        mask = arrays["mask"]
    rng, named = random.Random(5), 0
    for position in sorted(rng.sample(range(len(good)), 60)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        findings = found(source, target)
        if findings:
            named += 1
            assert findings == [("unreadable", "00002.json")]
        else:
            with np.load(path) as arrays:
                assert np.array_equal(arrays["mask"], mask)
    assert named > 30


JSONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:50]), "unreadable"),
    "not annotated": (lambda path: path.write_text("{}"), "unreadable"),
    "of another model": (lambda path: path.write_text(path.read_text().replace("SAM3-demo", "SAM2")), "unreadable"),
    "without properties": (lambda path: edit_entry(path, properties=None), "unreadable"),
    "another value": (lambda path: edit_entry(path, properties={"car": [7]}), "mask_values"),
    "another score": (lambda path: edit_entry(path, confidences={"car": [0.91]}), "foreign"),
    "another class": (lambda path: edit_entry(path, properties={"a": [255]}, confidences={"a": [0.9]}), "foreign"),
    "another mask's": (lambda json_file: edit_entry(json_file, path="00003.npz"), "foreign"),
}


@pytest.mark.parametrize(("damage", "kind"), JSONS.values(), ids=JSONS)
def test_a_replaced_json_is_found(source: Path, target: Path, damage: Callable[[Path], object], kind: str) -> None:
    damage(target / "00002.json")
    assert found(source, target) == [(kind, "00002.json")]


def copy_pair(target: Path, one: str, other: str) -> None:
    for suffix in (".npz", ".json"):
        shutil.copy(target / f"{one}{suffix}", target / f"{other}{suffix}")


def test_another_images_pair_is_foreign_with_a_journal_and_without(source: Path, target: Path) -> None:
    copy_pair(target, "00001", "00003")
    assert found(source, target) == [("foreign", "00003.json")]
    shutil.rmtree(target / "_sam3/runs/one/journal")
    assert found(source, target) == [("foreign", "00003.json")]
    assert found(source, target, deep=False) == []


def test_swapped_masks_are_foreign_as_far_as_there_are_rows(source: Path, target: Path) -> None:
    one, other = target / "00001.npz", target / "00003.npz"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert found(source, target) == [("foreign", "00001.json"), ("foreign", "00003.json")]
    shutil.rmtree(target / "_sam3/runs/one/journal")
    assert found(source, target) == [], "of one size and with the same values, the files alone cannot tell"


def test_the_mask_of_one_precision_with_the_json_of_another_is_foreign(
    source: Path, target: Path, session: VariedSession, tmp_path: Path
) -> None:
    """Two pools of different precision annotated an image of one run: each pair is valid, a mixture is not."""
    session.score = 0.8
    write_inputs(tmp_path / "darker", 7)
    Image.new("RGB", (40, 30), (3, 3, 3)).save(tmp_path / "darker" / "00002.jpg")
    annotate(request_of(tmp_path / "darker", tmp_path / "other", run_name="one"), Tally())
    second = find_named(LocalStore(tmp_path / "other", "x"), "one")
    rows = [row for shard in range(7) for row in read_history(second, shard_name(shard)).results.values()]
    journal = ShardJournal(find_named(LocalStore(target, "x"), "one"), shard_name(2), "cpu")
    row = next(row for row in rows if row.json == "00002.json")
    journal.add(msgspec.structs.replace(row, instances=""))
    journal.write()
    shutil.copy(tmp_path / "other" / "00002.npz", target)
    assert found(source, target) == [("foreign", "00002.json")]
    shutil.copy(tmp_path / "other" / "00002.json", target)
    assert found(source, target) == []


def test_the_newest_run_that_has_annotated_a_key_counts(source: Path, target: Path, session: VariedSession) -> None:
    shutil.copytree(target, target.parent / "earlier")
    session.score = 0.8
    annotate(request_of(source, target, run_name="two", override=True, limit=3), Tally())
    assert found(source, target) == []
    for key in ("00001", "00004"):
        for suffix in (".npz", ".json"):
            shutil.copy(target.parent / "earlier" / f"{key}{suffix}", target)
    assert found(source, target) == [("foreign", "00001.json")]


def test_what_an_older_run_annotated_with_another_model_is_whole(source: Path, target: Path) -> None:
    write_inputs(source, 8)
    annotate(request_of(source, target, run_name="two", model_id="SAM3"), Tally())
    assert found(source, target) == []
    shutil.rmtree(target / "_sam3/runs/one/journal")
    assert found(source, target) == []


def test_a_backward_run_is_read_in_order(source: Path, tmp_path: Path) -> None:
    write_inputs(source, 25)
    options = WorkerOptions(device="cpu", order="backward", shard_size=4)
    annotate(request_of(source, tmp_path / "back", run_name="one", options=options), Tally())
    assert found(source, tmp_path / "back") == []
    for key in ("00003", "00004", "00019"):
        edit_entry(tmp_path / "back" / f"{key}.json", confidences={"car": [0.5]})
    expected = [("foreign", "00003.json"), ("foreign", "00004.json"), ("foreign", "00019.json")]
    assert found(source, tmp_path / "back") == expected


def test_a_replaced_image_is_found(source: Path, target: Path) -> None:
    good = (target / "00002.jpg").read_bytes()
    (target / "00002.jpg").write_bytes(good[:-3] + b"abc")
    assert found(source, target, deep=False) == []
    assert found(source, target) == [("image_differs", "00002.json")]
    (target / "00002.jpg").write_bytes(good + b"\0")
    assert found(source, target, deep=False) == [("image_differs", "00002.json")]
    Image.new("RGB", (44, 30)).save(target / "00002.jpg")
    shutil.copy(target / "00002.jpg", source)
    assert found(source, target) == [("mask_size", "00002.json")]


def test_a_rotated_image_has_the_mask_of_its_stored_raster(source: Path, target: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), (9, 9, 9)).save(source / "00009.jpg", exif=exif)
    (source / "00009.json").write_text("{}")
    annotate(request_of(source, target), Tally())
    assert found(source, target) == []


def test_missing_images_are_no_finding_without_image_copies(source: Path, tmp_path: Path) -> None:
    """Files that `annotate` does not use are no finding."""
    annotate(request_of(source, tmp_path / "bare", image_mode="none"), Tally())
    (source / "00001.jpg").unlink()
    assert list(list_planned(request_of(source, tmp_path / "bare", image_mode="none"))) == []
    assert found(source, tmp_path / "bare") == []


def test_an_override_of_the_list_repairs_all_findings_and_nothing_else(
    source: Path, target: Path, session: VariedSession, tmp_path: Path
) -> None:
    write_inputs(source, 14)
    annotate(request_of(source, target), Tally())
    before, images = results(target), session.images
    (target / "00000.npz").unlink()
    (target / "00001.json").write_bytes(b"")
    (target / "00002.npz").write_bytes((target / "00002.npz").read_bytes()[:70])
    copy_pair(target, "00004", "00003")
    (target / "00005.jpg").write_bytes(b"another")
    for suffix in (".npz", ".json", ".jpg"):
        (target / f"00007{suffix}").unlink()
    (target / "orphan.npz").write_bytes(b"x")
    wrong = {
        "00000": "torn",
        "00001": "empty",
        "00002": "unreadable",
        "00003": "foreign",
        "00005": "image_differs",
        "00007": "missing",
    }
    assert found(source, target) == [
        *((kind, f"{key}.json") for key, kind in wrong.items()),
        ("orphaned", "orphan.npz"),
    ]
    keys = tmp_path / "keys"
    assert run_cli(["audit", str(target), "--deep", "--list", str(keys), "--log_level", "ERROR"]) == 1
    assert keys.read_text().splitlines() == [f"{key}.json" for key in wrong]
    redo = ["--input_list", str(keys), "--override_previous_annotations", "--annotation_date", "2026-01-31"]
    flags = ["--input_top_dir", str(source), "--out_top_dir", str(target), "--device", "cpu", "--log_level", "ERROR"]
    assert run_cli(["annotate", *flags, *redo]) == 0
    assert session.images == images + len(wrong)
    (target / "orphan.npz").unlink()
    assert results(target) == before
    assert found(source, target) == []


def test_keys_that_are_not_utf8_or_have_line_ends_are_listed(source: Path, target: Path, tmp_path: Path) -> None:
    for name in (os.fsdecode(b"bad\xff"), "two\nlines", "\x1b[31mred"):
        for folder in (source, target):
            shutil.copy(source / "00001.jpg", folder / f"{name}.jpg")
            (folder / f"{name}.json").write_bytes(b"")
        (target / f"{name}.npz").write_bytes(b"")
    for flags in (["-o", "json"], ["--deep"], ["--list", str(tmp_path / "keys")]):
        assert run_cli(["audit", str(target), "--log_level", "ERROR", *flags]) == 1
    assert (tmp_path / "keys").read_text() == "\x1b[31mred.json\nbad\\xff.json\n"


def test_text_has_no_control_characters(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (target / "\x1b[31mred\n.npz").write_bytes(b"x")
    assert run_cli(["audit", str(target), "--log_level", "ERROR"]) == 1
    said = capsys.readouterr().out
    assert "orphaned: \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}.npz" in said


def test_a_list_is_written_atomically(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("an earlier list\n")
    (target / "00000.npz").unlink()
    original = LocalStore.read

    def fail_late(self: LocalStore, key: str) -> bytes:
        if key.startswith("00005"):
            raise StorageError("out of reach")
        return original(self, key)

    monkeypatch.setattr(LocalStore, "read", fail_late)
    assert run_cli(["audit", str(target), "--deep", "--list", str(keys)]) == 75
    assert keys.read_text() == "an earlier list\n"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("keys")] == ["keys"]
    assert run_cli(["audit", str(target), "--list", str(tmp_path / "no/such/folder")]) == 2


def test_an_audit_changes_nothing(source: Path, target: Path) -> None:
    before = {path: path.stat() for path in target.rglob("*")}
    assert run_cli(["audit", str(target), "--deep", "--log_level", "ERROR"]) == 0
    after = {path: path.stat() for path in target.rglob("*")}
    assert before.keys() == after.keys()
    assert all(before[path].st_mtime_ns == after[path].st_mtime_ns for path in before)


def test_a_deep_audit_holds_few_images_in_memory(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large mask is never held: it is read block by block."""
    size_hw = (6000, 8000)
    Image.new("L", size_hw[::-1]).save(source / "00002.jpg", quality=1)
    shutil.copy(source / "00002.jpg", target)
    (target / "00002.npz").write_bytes(to_npz(np.zeros(size_hw, np.uint8)))
    tracemalloc.start()
    assert found(source, target) == [("foreign", "00002.json")]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30_000_000
